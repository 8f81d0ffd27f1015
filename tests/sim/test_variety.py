import numpy as np
import pytest

from traceworld.errors import ConfigError
from traceworld.sim.cameras import film_cameras
from traceworld.sim.embodiments import EMBODIMENTS
from traceworld.sim.rendering import SceneRenderer
from traceworld.sim.studio import CHANGEABLE, PROPS, SHOWN_GROUP, Studio
from traceworld.sim.variety import PROP_CLEARANCE_M, Variety

pytestmark = pytest.mark.render

SIZE = (96, 72)
NOTHING = {"surfaces": 0.0, "objects": 0.0, "robot": 0.0, "lights": 0.0, "distractors": 0}


@pytest.fixture(scope="module")
def studio(drawer):
    return Studio.of(drawer.world)


@pytest.fixture(scope="module")
def renderer(studio):
    with SceneRenderer(studio.model, *SIZE) as open_renderer:
        yield open_renderer


@pytest.fixture
def look(drawer, studio, renderer):
    """A picture and the surfaces of the first state in the look that a variety draws from a seed."""
    camera = film_cameras(drawer.stage, "corner", drawer.states[:1], *SIZE)[0]

    def look_at(variety: Variety | None, seed: int = 0, embodiment: str = "sawyer"):
        studio.embody(embodiment)
        studio.load(drawer.rollout)
        renderer.upload_textures(range(studio.model.ntex))  # whatever was painted before
        if variety is not None:
            renderer.upload_textures(variety.dress(studio, np.random.default_rng(seed), drawer.states))
        return renderer.color(studio.data, camera), renderer.surfaces(studio.data, camera)

    return look_at


def _fields(studio):
    return {name: getattr(studio.model, name).copy() for name in CHANGEABLE}


def test_same_seed_same_look_and_another_seed_another(look):
    first, _ = look(Variety(), 3)
    other, _ = look(Variety(), 4)
    again, _ = look(Variety(), 3)
    assert np.array_equal(first, again)
    assert np.abs(first.astype(int) - other).mean() > 8


def test_nothing_asked_for_changes_nothing(look, studio):
    plain, surfaces = look(None)
    before = _fields(studio)
    same, same_surfaces = look(Variety(**NOTHING), 5)
    assert np.array_equal(plain, same)
    assert np.array_equal(surfaces.depth_m, same_surfaces.depth_m, equal_nan=True)
    for name, value in _fields(studio).items():
        assert np.allclose(value, before[name], atol=1e-12), name


def test_loading_takes_the_look_off(look, studio):
    plain, _ = look(None)
    before = _fields(studio)
    headlight = studio.model.vis.headlight.ambient.copy()
    look(Variety(surfaces=1.0), 1)
    assert not np.array_equal(studio.model.vis.headlight.ambient, headlight)
    look(None)
    for name, value in _fields(studio).items():
        assert np.array_equal(value, before[name]), name
    assert np.array_equal(studio.model.vis.headlight.ambient, headlight)
    assert np.array_equal(look(None)[0], plain)


@pytest.mark.parametrize("kind", ["surfaces", "objects", "robot", "lights"])
def test_each_kind_changes_what_it_says_and_no_shape(look, studio, kind):
    plain, surfaces = look(Variety(**NOTHING))
    changed, same_surfaces = look(Variety(**(NOTHING | {kind: 1.0})), 2)
    assert np.array_equal(surfaces.depth_m, same_surfaces.depth_m, equal_nan=True)
    assert np.array_equal(surfaces.object_id, same_surfaces.object_id)
    difference = np.abs(changed.astype(int) - plain).max(-1)
    geom = np.where((surfaces.object_id >= 0) & (surfaces.object_id < studio.model.ngeom), surfaces.object_id, -1)
    body = np.append(studio.object_body, -1)[geom]
    inner = _away_from_edges(geom)
    where = {
        "robot": studio.robot[geom] & (geom >= 0),
        "objects": np.isin(body, [studio.model.body(name).id for name in ("drawercase_link", "drawer_link")]),
        "surfaces": np.isin(body, studio.bodies("tablelink", "RetainingWall")) | (geom == 0) | (geom == -1),
    }
    if kind == "lights":
        assert (difference[inner & (geom >= 0)] > 0).mean() > 0.7  # white stays white
        return
    assert difference[where[kind] & inner].mean() > 8
    others = np.logical_or.reduce([mask for name, mask in where.items() if name != kind])
    assert (difference[others & inner] == 0).mean() > 0.97  # a pixel is averaged from four, some of them beyond an edge


def _away_from_edges(geom):
    inner = np.zeros(geom.shape, bool)
    inner[1:-1, 1:-1] = True
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            inner &= np.roll(geom, (dy, dx), (0, 1)) == geom
    return inner


def test_switching_one_kind_off_leaves_the_others_as_they_are(look, studio):
    look(Variety(), 6)
    whole = _fields(studio)
    look(Variety(lights=0.0), 6)
    without = _fields(studio)
    for name in ("geom_rgba", "geom_matid", "tex_data", "body_pos", "geom_size"):
        assert np.array_equal(whole[name], without[name]), name
    assert not np.array_equal(whole["light_dir"], without["light_dir"])


@pytest.mark.parametrize("embodiment", EMBODIMENTS)
def test_who_plays_is_recolored(look, studio, embodiment):
    plain, surfaces = look(Variety(**NOTHING), 0, embodiment)
    changed, _ = look(Variety(**(NOTHING | {"robot": 1.0})), 1, embodiment)
    player = studio.robot.copy()
    player[studio.geoms_of(f"{embodiment}/")] = True
    geom = np.where((surfaces.object_id >= 0) & (surfaces.object_id < studio.model.ngeom), surfaces.object_id, -1)
    mask = player[geom] & (geom >= 0)
    assert mask.sum() > 20
    assert np.abs(changed.astype(int) - plain).max(-1)[mask].mean() > 8


def test_what_had_one_color_keeps_one(look, studio):
    look(None, 0, "hand-like")
    geoms = studio.geoms_of("hand-like/")
    before = studio.model.geom_rgba[geoms].copy()
    look(Variety(), 9, "hand-like")
    after = studio.model.geom_rgba[geoms]
    for color in np.unique(before, axis=0):
        assert len(np.unique(after[(before == color).all(1)], axis=0)) == 1
    assert np.array_equal(before[:, 3], after[:, 3])


@pytest.mark.parametrize("embodiment", ["sawyer", "hand-like"])
def test_distractors_stand_on_the_table_clear_of_everything_ever_shown(drawer, look, studio, embodiment):
    """Distances by MuJoCo's own collision code, which knows nothing of the balls that were kept clear of."""
    import mujoco

    props, shown = [], 0
    for seed in range(4):
        look(Variety(distractors=6), seed, embodiment)
        model, data = studio.model, studio.data
        props = [int(g) for g in studio.geoms_of("prop/") if model.geom_group[g] == SHOWN_GROUP]
        shown += len(props)
        room = studio.bodies("world", "tablelink", "RetainingWall")
        others = [g for g in np.flatnonzero(model.geom_group <= 2) if model.geom_bodyid[g] not in room]
        for state in drawer.states[[0, 5, len(drawer.states) - 1]]:
            studio.put(state)
            for prop in props:
                near = [mujoco.mj_geomDistance(model, data, prop, int(g), 1.0, None) for g in others if g != prop]
                assert min(near) > PROP_CLEARANCE_M - 1e-3
        for prop in props:
            lowest = model.body_pos[model.geom_bodyid[prop], 2] - _half_height(model, prop)
            assert lowest == pytest.approx(0, abs=1e-6)
    assert shown >= 6


def _half_height(model, geom):
    import mujoco

    size, kind = model.geom_size[geom], model.geom_type[geom]
    if kind == mujoco.mjtGeom.mjGEOM_SPHERE:
        return size[0]
    if kind == mujoco.mjtGeom.mjGEOM_CYLINDER:
        return size[1]
    if kind == mujoco.mjtGeom.mjGEOM_CAPSULE:
        return size[0] + size[1]
    return size[2]


def test_distractors_are_seen_and_never_move(drawer, look, studio, renderer):
    camera = film_cameras(drawer.stage, "topview", drawer.states[:1], *SIZE)[0]
    seen = set()
    for seed in range(6):
        look(Variety(distractors=6), seed)
        shown = renderer.surfaces(studio.data, camera).object_id
        seen |= set(np.unique(shown[np.isin(shown, studio.geoms_of("prop/"))]).tolist())
    assert len(seen) >= 3
    bodies = studio.model.geom_bodyid[list(seen)]
    assert (studio.body_part[bodies] == -1).all()


def test_bad_amounts_name_the_field():
    with pytest.raises(ConfigError, match=r"Variety\.lights"):
        Variety(lights=1.5)
    with pytest.raises(ConfigError, match=r"Variety\.distractors"):
        Variety(distractors=len(PROPS) + 1)
    with pytest.raises(ConfigError, match=r"Variety\.surfaces"):
        Variety(surfaces=-0.1)
