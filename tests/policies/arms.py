"""A six-joint arm of capsules, small enough to read, and a wall to run into."""

ARM = """
<mujoco>
  <compiler angle="radian"/>
  <worldbody>
    <geom name="wall" type="box" size="0.02 0.5 0.5" pos="0.75 0 0.5"/>
    <body name="base" pos="0 0 0.2">
      <geom type="cylinder" size="0.05 0.05" pos="0 0 -0.1"/>
      <body name="l1"><joint name="j1" axis="0 0 1" range="-2.8 2.8" limited="true"/>
        <geom type="capsule" size="0.03" fromto="0 0 0 0 0 0.05"/>
        <body name="l2" pos="0 0 0.12"><joint name="j2" axis="0 1 0" range="-1.8 1.8" limited="true"/>
          <geom type="capsule" size="0.03" fromto="0 0 0.05 0 0 0.3"/>
          <body name="l3" pos="0 0 0.35"><joint name="j3" axis="0 1 0" range="-2.6 2.6" limited="true"/>
            <geom type="capsule" size="0.025" fromto="0 0 0.05 0 0 0.25"/>
            <body name="l4" pos="0 0 0.3"><joint name="j4" axis="0 0 1" range="-3 3" limited="true"/>
              <geom type="capsule" size="0.02" fromto="0 0 0.03 0 0 0.05"/>
              <body name="l5" pos="0 0 0.08"><joint name="j5" axis="0 1 0" range="-2 2" limited="true"/>
                <geom type="capsule" size="0.02" fromto="0 0 0.03 0 0 0.05"/>
                <body name="hand" pos="0 0 0.08"><joint name="j6" axis="0 0 1" range="-3 3" limited="true"/>
                  <geom name="fist" type="sphere" size="0.02" pos="0 0 0.05"/>
                  <site name="tool" pos="0 0 0.08"/>
                </body>
              </body>
            </body>
          </body>
        </body>
      </body>
    </body>
  </worldbody>
</mujoco>
"""
JOINTS = tuple(f"j{k}" for k in range(1, 7))
ELBOW = (0.3, 0.6, 1.0, 0.2, 0.7, -0.3)
"""A configuration well inside the limits."""
