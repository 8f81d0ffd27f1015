import numpy as np
import pytest

from traceworld.errors import InvalidInputError, MissingExtraError, RenderingError
from traceworld.geometry.cameras import unproject
from traceworld.sim import rendering
from traceworld.sim.cameras import CameraView, film_cameras
from traceworld.traces.types import Camera

pytestmark = pytest.mark.render


def _grid(camera, step=17):
    ys, xs = np.mgrid[3 : camera.height : step, 5 : camera.width : step]
    return np.stack([xs.ravel(), ys.ravel()], 1)


def _compare_with_rays(cast_ray, drawer, camera, qpos):
    """Share of grid pixels whose geom is the ray caster's, and the depth error where it is."""
    drawer.stage.put(qpos)
    surfaces = drawer.renderer.surfaces(drawer.stage.data, camera)
    same, error = [], []
    for x, y in _grid(camera):
        seen = surfaces.object_id[y, x]
        if seen >= drawer.stage.model.ngeom:
            continue  # a goal marker: rays pass through sites
        geom, z = cast_ray(drawer.stage, camera, (x, y))
        same.append(geom == seen)
        if geom == seen and geom >= 0:
            error.append(abs(surfaces.depth_m[y, x] - z))
    return np.mean(same), np.array(error)


@pytest.mark.parametrize("name", ["corner", "corner2", "topview"])
def test_depth_and_identity_equal_an_independent_ray_caster(cast_ray, drawer, name):
    camera = film_cameras(drawer.stage, name, drawer.states[:1], 320, 240)[0]
    same, error = _compare_with_rays(cast_ray, drawer, camera, drawer.states[-1])
    assert same > 0.98  # at silhouettes a rounding decides
    assert np.median(error) < 2e-6
    assert np.quantile(error, 0.98) < 2e-4


def test_any_K_is_honoured(cast_ray, drawer):
    pose = CameraView(distance=1.2, azimuth_deg=70.0, elevation_deg=-35.0).cam_from_world()
    K = np.array([[210.0, 0, 120.3], [0, 260.0, 150.8], [0, 0, 1]])
    same, error = _compare_with_rays(cast_ray, drawer, Camera(K, pose, 320, 240), drawer.states[0])
    assert same > 0.98
    assert np.median(error) < 2e-6


def test_table_is_flat(drawer):
    camera = film_cameras(drawer.stage, "corner3", drawer.states[:1], 320, 240)[0]
    drawer.stage.put(drawer.states[0])
    surfaces = drawer.renderer.surfaces(drawer.stage.data, camera)
    y, x = np.nonzero(drawer.stage.object_body[surfaces.object_id] == drawer.stage.model.body("tablelink").id)
    xyz = unproject(
        np.stack([x, y], 1).astype(float), surfaces.depth_m[y, x].astype(float), camera.K, camera.cam_from_world
    )
    top = (np.abs(xyz[:, 0]) < 0.5) & (np.abs(xyz[:, 1] - 0.6) < 0.25)  # inside the board's edges
    assert top.sum() > 5000
    assert np.abs(xyz[top, 2]).max() < 1e-5


def test_nothing_is_nan_and_minus_one(drawer):
    up = CameraView(elevation_deg=80.0, lookat=(0.0, 0.6, 3.0)).cam_from_world()
    camera = Camera(np.array([[40.0, 0, 31.5], [0, 40.0, 23.5], [0, 0, 1]]), up, 64, 48)
    surfaces = drawer.renderer.surfaces(drawer.stage.data, camera)
    assert (surfaces.object_id == -1).any()
    assert np.array_equal(np.isnan(surfaces.depth_m), surfaces.object_id == -1)


def test_color_agrees_with_identity_and_is_the_same_every_time(drawer):
    camera = film_cameras(drawer.stage, "corner", drawer.states[:1], 320, 240)[0]
    drawer.stage.put(drawer.states[-1])
    color = drawer.renderer.color(drawer.stage.data, camera)
    surfaces = drawer.renderer.surfaces(drawer.stage.data, camera)
    assert np.array_equal(color, drawer.renderer.color(drawer.stage.data, camera))
    body = np.append(drawer.stage.object_body, -1)[surfaces.object_id]
    green = color[body == drawer.stage.model.body("drawer_link").id].mean(0)
    red = color[body == drawer.stage.model.body("right_l3").id].mean(0)
    assert green[1] > green[0]
    assert red[0] > 2 * red[1]


def test_shadows_are_an_option(drawer):
    camera = film_cameras(drawer.stage, "corner", drawer.states[:1], 64, 48)[0]
    with rendering.SceneRenderer(drawer.stage.model, 64, 48, shadows=True, supersample=1) as fancy:
        shaded = fancy.color(drawer.stage.data, camera)
    with rendering.SceneRenderer(drawer.stage.model, 64, 48, supersample=1) as plain:
        lit = plain.color(drawer.stage.data, camera)
    assert shaded.shape == lit.shape == (48, 64, 3)
    assert (shaded.astype(int) - lit).min() < -20


def test_larger_than_the_renderer_is_refused(drawer):
    camera = film_cameras(drawer.stage, "corner", drawer.states[:1], 640, 240)[0]
    with pytest.raises(InvalidInputError, match="320×240"):
        drawer.renderer.color(drawer.stage.data, camera)


@pytest.mark.parametrize("error", [AttributeError("eglQueryString"), MissingExtraError("Unable to load EGL library")])
def test_missing_egl_names_the_command(monkeypatch, error):
    def fail(name):
        raise error

    monkeypatch.setattr(rendering, "require", fail)
    with pytest.raises(RenderingError, match="apt-get install -y libegl1 libgl1"):
        rendering.load_mujoco()


def test_missing_mujoco_names_the_extra(monkeypatch):
    def fail(name):
        raise MissingExtraError("no mujoco", mend="pip install 'traceworld[sim]'")

    monkeypatch.setattr(rendering, "require", fail)
    monkeypatch.setattr(rendering.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"traceworld\[sim\]"):
        rendering.load_mujoco()


def test_driver_that_gives_no_context_names_the_command(drawer, monkeypatch):
    def fail(width, height):
        raise RuntimeError("no EGL device")

    monkeypatch.setattr(rendering, "_context_class", lambda: fail)
    with pytest.raises(RenderingError, match="no EGL device"):
        rendering.SceneRenderer(drawer.stage.model, 64, 48)


def test_headless_chooses_egl_and_a_choice_is_kept(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    rendering.load_mujoco()
    assert rendering.os.environ["MUJOCO_GL"] == "egl"
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    rendering.load_mujoco()
    assert rendering.os.environ["MUJOCO_GL"] == "osmesa"
