"""Points are found on the gripper by where proprioception says it is."""

import numpy as np
import pytest
from follower_scenes import PointRobot, camera_above, gripper_points

from traceworld.errors import DepthError
from traceworld.geometry.cameras import project
from traceworld.policies.follower import keypoints
from traceworld.policies.follower.gripper import METAWORLD_GRIPPER, ToolState
from traceworld.policies.follower.keypoints import KeypointBudget, Role, choose_keypoints, on_plane


def tool_at(xyz, opening=1.0) -> ToolState:
    pose = np.eye(4)
    pose[:3, 3] = xyz
    return ToolState(pose, opening)


def chosen(robot: PointRobot, depth=None, **options):
    seen = robot.observe()
    depth = seen.depth_m["scene"] if depth is None else depth
    return choose_keypoints(
        depth, robot.camera, METAWORLD_GRIPPER, tool_at(robot.tool, robot.opening), KeypointBudget(),
        np.random.default_rng(0), **options,
    )  # fmt: skip


@pytest.mark.parametrize("opening", [1.0, 0.5])
def test_palm_fingers_and_scene_are_told_apart(opening):
    robot = PointRobot(tool=(0.05, 0.0, 0.25), block=(0.1, 0.0, 0.08))
    robot.opening = opening
    points = chosen(robot)
    truth = gripper_points(robot.tool, opening)
    for role, own in ((Role.PALM, truth[:12]), (Role.FINGER_PLUS, truth[12:18]), (Role.FINGER_MINUS, truth[18:])):
        mine = points.xyz_world[points.of(role)]
        assert len(mine)
        # A pixel is 2 mm wide at a metre: what was chosen is one of the part's own points.
        assert np.linalg.norm(mine[:, None] - own, axis=-1).min(1).max() < 0.003
    scene = points.xyz_world[points.of(Role.SCENE)]
    assert len(scene)
    assert np.abs(scene - robot.block).max() < 0.015


def test_pixels_and_places_agree():
    robot = PointRobot(block=(0.1, 0.0, 0.08))
    points = chosen(robot)
    spot = project(points.xyz_world, robot.camera.K, robot.camera.cam_from_world)
    assert np.allclose(spot[:, 2], points.z_m)
    assert np.allclose((points.uv + 1) / 2 * [640, 480] - 0.5, spot[:, :2])


def test_the_table_is_left_out_and_the_focus_gets_its_share():
    robot = PointRobot(tool=(0.0, 0.0, 0.3), block=(0.1, 0.0, 0.05))
    depth = robot.observe().depth_m["scene"]
    x, y = np.meshgrid(np.linspace(-0.3, 0.3, 60), np.linspace(-0.25, 0.25, 40))
    table = np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], 1)
    spot = project(table, robot.camera.K, robot.camera.cam_from_world)
    pixel = np.rint(spot[:, :2]).astype(int)
    inside = ((pixel >= 0) & (pixel < (640, 480))).all(1)
    depth[pixel[inside, 1], pixel[inside, 0]] = spot[inside, 2]
    scene = lambda points: points.xyz_world[points.of(Role.SCENE)]  # noqa: E731
    assert np.linalg.norm(scene(chosen(robot, depth)) - robot.block, axis=1).max() < 0.05
    focused = scene(chosen(robot, depth, focus=robot.block))
    assert len(focused) == len(np.unique(focused, axis=0))


def test_slivers_of_the_gripper_are_not_the_scene(monkeypatch):
    """A flange that sticks out of the palm's box would be the farthest point of all, and move with the tool."""
    robot = PointRobot(tool=(0.0, 0.0, 0.25), block=(0.1, 0.0, 0.08))
    depth = robot.observe().depth_m["scene"]
    low, high = np.array(METAWORLD_GRIPPER.palm_low), np.array(METAWORLD_GRIPPER.palm_high)
    slivers = np.array(
        [(low[0] - 0.006, -0.02, 0.11), (0.02, low[1] - 0.004, low[2] - 0.007), (high[0] + 0.01, 0, 0.06)]
    )
    for spot in project(robot.tool + slivers, robot.camera.K, robot.camera.cam_from_world):
        depth[round(spot[1]), round(spot[0])] = spot[2]

    def taken():
        points = chosen(robot, depth)
        scene = points.xyz_world[points.of(Role.SCENE)] - robot.tool
        assert len(scene)
        return (np.linalg.norm(scene[:, None] - slivers, axis=-1).min(0) < 0.003).sum()

    assert taken() == 0
    monkeypatch.setattr(keypoints, "BODY_MARGIN_M", 0.0)
    assert taken() > 0
    beside = np.array([[high[0] + 0.02, 0.0, 0.06]])  # a thing next to the palm is no part of it
    assert not METAWORLD_GRIPPER.palm(beside, 0.012).any()


def test_a_plane_is_found_only_if_it_is_large():
    rng = np.random.default_rng(0)
    table = np.c_[rng.uniform(-1, 1, (100, 2)), np.zeros(100)]
    things = rng.uniform(-1, 1, (60, 3)) + np.array([0, 0, 1.2])
    on = on_plane(np.concatenate([table, things]), rng)
    assert on[:100].all()
    assert not on[100:].any()
    assert not on_plane(things, rng).any()
    assert on_plane(things[:2], rng).tolist() == [False, False]


def test_a_picture_without_depth_is_an_error():
    with pytest.raises(DepthError, match="no pixel"):
        choose_keypoints(
            np.full((480, 640), np.nan, np.float32), camera_above(), METAWORLD_GRIPPER, tool_at((0, 0, 0.3)),
            KeypointBudget(), np.random.default_rng(0),
        )  # fmt: skip
