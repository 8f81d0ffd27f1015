"""Scenes from the simulator: what they say of themselves agrees with their own pixels."""

import numpy as np
import pytest

from traceworld.errors import ConfigError
from traceworld.geometry.cameras import unproject
from traceworld.sim.tabletop import set_table
from traceworld.sim.tabletop_photo import build_model
from traceworld.tracespatial.boxes import contains
from traceworld.tracespatial.free_space import find_platform
from traceworld.tracespatial.rejection import densified
from traceworld.tracespatial.scene import SpatialTrace
from traceworld.tracespatial.sim_source import SimSourceConfig, sim_scenes, sim_stream
from traceworld.tracespatial.strict_collision import check_trace
from traceworld.tracespatial.traces import TraceConfig, make_traces

SMALL = SimSourceConfig(sizes=((160, 120),), cloud_points=100)


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError):
        SimSourceConfig(views=0)


@pytest.mark.render
def test_pixels_boxes_clouds_and_supports_agree():
    pytest.importorskip("mujoco")
    for seed in (0, 5):
        (scene,) = sim_scenes(seed, SMALL)
        assert scene.scene_id == f"sim-{seed}-0"
        shown = np.zeros(scene.depth_m.shape, int)
        for thing in scene.objects:
            shown += thing.mask
            v, u = np.nonzero(thing.mask)
            seen = unproject(
                np.stack([u, v], 1).astype(float),
                scene.depth_m[v, u].astype(float),
                scene.camera.K,
                scene.camera.cam_from_world,
            )
            assert contains(thing.box, seen, 2e-3).all(), thing.object_id
            assert contains(thing.box, thing.cloud_world.astype(float), 1e-5).all()
            if thing.movable:
                assert find_platform(scene, thing).object_id == thing.support_id
                assert thing.attributes["colour"]
        assert shown.max() == 1
        captions = [thing.caption for thing in scene.objects if thing.caption]
        assert len(captions) == len(set(captions)) >= 3


@pytest.mark.render
def test_views_share_a_table_and_seeds_repeat():
    pytest.importorskip("mujoco")
    first, second = sim_scenes(3, SimSourceConfig(sizes=((120, 90),), views=2))
    assert not np.array_equal(first.camera.cam_from_world, second.camera.cam_from_world)
    for one, other in zip(first.objects, second.objects, strict=True):
        np.testing.assert_array_equal(one.box.center_xyz, other.box.center_xyz)
    again = next(sim_stream(3, 1, SimSourceConfig(sizes=((120, 90),), views=2)))
    np.testing.assert_array_equal(again.image, first.image)
    assert [one.caption for one in again.objects] == [one.caption for one in first.objects]


@pytest.mark.render
@pytest.mark.slow
def test_traces_of_simulated_tables_pass_the_strict_checker():
    pytest.importorskip("mujoco")
    config, made, hits = TraceConfig(gate=False), 0, 0
    for scene in sim_stream(1000, 30):
        for trace in make_traces(scene, 0, 14, config=config):
            if isinstance(trace, SpatialTrace):
                made += 1
                hits += check_trace(scene, trace.object_id, trace.points_world).collided
    assert made >= 300
    assert hits <= 0.02 * made


@pytest.mark.render
@pytest.mark.slow
def test_physics_finds_no_contact_either():
    """The simulator's own shapes, carried along each trace: no penetration beyond what stands at the start."""
    mujoco = pytest.importorskip("mujoco")
    checked = 0
    for seed in range(2000, 2006):
        (scene,) = sim_scenes(seed, SMALL)
        model, _ = build_model(set_table(seed))
        data = mujoco.MjData(model)
        for trace in make_traces(scene, 0, 8, config=TraceConfig(gate=False)):
            if not isinstance(trace, SpatialTrace):
                continue
            mujoco.mj_resetData(model, data)
            body = model.body(trace.object_id).id
            address = model.jnt_qposadr[model.body_jntadr[body]]
            start = data.qpos[address : address + 3].copy()
            for point in densified(trace.points_world):
                data.qpos[address : address + 3] = start + point - trace.points_world[0]
                mujoco.mj_kinematics(model, data)
                mujoco.mj_collision(model, data)
                pairs = model.geom_bodyid[data.contact.geom].reshape(-1, 2)
                deep = (pairs == body).any(1) & (data.contact.dist < -0.003)
                assert not deep.any(), (seed, trace.object_id, [model.body(b).name for b in pairs[deep][0]])
            checked += 1
    assert checked >= 20
