"""Pictures that do not tell metres: the same to the pixel at every scale, lenses and distances that go together."""

import numpy as np
import pytest
from qa_scenes import make_scene, table_things

from traceworld.errors import ConfigError
from traceworld.geometry.cameras import project
from traceworld.sim.tabletop import set_table
from traceworld.tracespatial.sim_views import ViewVariety, drawn_scale, scaled_scene, varied_camera
from traceworld.tracespatial.sources import SimSource


def test_a_scaled_scene_looks_the_same_and_is_larger():
    scene = make_scene(table_things())
    large = scaled_scene(scene, 1.3)
    np.testing.assert_array_equal(large.image, scene.image)
    np.testing.assert_allclose(large.depth_m, 1.3 * scene.depth_m, rtol=1e-6)
    for before, after in zip(scene.objects, large.objects, strict=True):
        np.testing.assert_allclose(after.box.size_m, 1.3 * before.box.size_m)
        was = project(before.box.center_xyz[None], scene.camera.K, scene.camera.cam_from_world)[0]
        now = project(after.box.center_xyz[None], large.camera.K, large.camera.cam_from_world)[0]
        np.testing.assert_allclose(now, was * [1, 1, 1.3], rtol=1e-9)
        np.testing.assert_array_equal(after.mask, before.mask)
        np.testing.assert_allclose(after.cloud_world, 1.3 * before.cloud_world, rtol=1e-5)


def test_the_camera_is_as_far_as_its_lens_needs():
    variety = ViewVariety(half_height_m=(0.6, 0.6))
    rng, table = np.random.default_rng(0), set_table(1)
    focal, distance, shown = [], [], []
    top = next(thing for thing in table.things if thing.name == table.table).top_z()
    for _ in range(60):
        camera = varied_camera(table, rng, ((160, 120),), variety)
        pose = np.linalg.inv(camera.cam_from_world)
        aim = (
            pose[:3, 3] + pose[:3, 2] * (top + 0.05 - pose[2, 3]) / pose[2, 2]
        )  # where the line of sight meets the things
        focal.append(camera.K[1, 1])
        distance.append(np.linalg.norm(aim - pose[:3, 3]))
        shown.append(distance[-1] * 60 / focal[-1])
    assert max(focal) / min(focal) > 1.8
    assert np.corrcoef(focal, distance)[0, 1] > 0.9
    np.testing.assert_allclose(shown, 0.6, atol=0.11)  # the aim's height is drawn within 5 cm


def test_scales_lie_between_their_ends_on_both_sides_of_one():
    rng = np.random.default_rng(0)
    drawn = [drawn_scale(rng, ViewVariety()) for _ in range(200)]
    assert 0.75 <= min(drawn) < 0.8
    assert 1.25 < max(drawn) <= 1.35


def test_impossible_variety_is_refused():
    with pytest.raises(ConfigError):
        ViewVariety(scale=(0.0, 1.0))
    with pytest.raises(ConfigError):
        ViewVariety(fovy_deg=(70.0, 30.0))


def test_a_varied_source_says_so_in_its_name():
    names = {SimSource(3).name, SimSource(3, varied=True).name, SimSource(3, varied=True, sizes=((9, 8),)).name}
    assert len(names) == 3
    assert SimSource(3).name == "sim seed 3 views 1"


@pytest.mark.render
def test_the_source_draws_lenses_and_scales():
    pytest.importorskip("mujoco")
    source = SimSource(7, varied=True, sizes=((96, 72),))
    scenes = [source.load(scene_id) for scene_id, _ in zip(source.scene_ids(), range(3), strict=False)]
    heights = {round(float(s.objects[1].box.size_m[2] / t.things[1].box()[1][2]), 6) for s, t in _with_tables(scenes)}
    assert len(heights) == 3  # three scales
    assert len({float(scene.camera.K[1, 1]) for scene in scenes}) == 3
    again = SimSource(7, varied=True, sizes=((96, 72),)).load(scenes[1].scene_id)
    np.testing.assert_array_equal(again.depth_m, scenes[1].depth_m)


def _with_tables(scenes):
    return [(scene, set_table(int(scene.scene_id.split("-")[1]))) for scene in scenes]
