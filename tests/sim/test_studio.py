import numpy as np
import pytest

from traceworld.errors import ConfigError
from traceworld.sim.cameras import film_cameras
from traceworld.sim.embodiments import EMBODIMENTS, PUPPETS
from traceworld.sim.film import shoot
from traceworld.sim.glue import traces_of
from traceworld.sim.rendering import SceneRenderer
from traceworld.sim.sampling import sample_points
from traceworld.sim.studio import Studio

pytestmark = pytest.mark.render

SIZE = (160, 120)


@pytest.fixture(scope="module")
def studio(drawer):
    return Studio.of(drawer.world)


@pytest.fixture(scope="module")
def films(drawer, studio):
    """The episode, every 24th state, as each embodiment plays it; and the pictures of the last state."""
    states = drawer.states[::3]
    found, last = {}, {}
    with SceneRenderer(studio.model, *SIZE) as renderer:
        for name in EMBODIMENTS:
            studio.embody(name)
            studio.load(drawer.rollout)
            cameras = film_cameras(studio, "corner", states, *SIZE)
            found[name] = shoot(studio, renderer, cameras, states)
            last[name] = renderer.color(studio.data, cameras[0])
    return found, last


def _bodies_seen(studio, film):
    shown = np.unique(film.object_id)
    names = studio.body_names()
    return {names[film.object_body[one]] for one in shown[shown >= 0]}


def test_sawyer_on_a_studio_is_the_plain_stage_to_the_last_bit(drawer, films):
    states = drawer.states[::3]
    plain = drawer.world.stage()
    plain.load(drawer.rollout)
    cameras = film_cameras(plain, "corner", states, *SIZE)
    with SceneRenderer(plain.model, *SIZE) as renderer:
        film = shoot(plain, renderer, cameras, states)
        color = renderer.color(plain.data, cameras[0])
    here = films[0]["sawyer"]
    assert np.array_equal(film.depth_m, here.depth_m, equal_nan=True)
    own_body, here_body = (np.append(one.object_body, -1)[one.object_id] for one in (film, here))
    assert np.array_equal(own_body, here_body)
    assert np.array_equal(film.body_pose, here.body_pose[:, : film.body_pose.shape[1]])
    assert np.array_equal(film.body_part, here.body_part[: len(film.body_part)])
    assert np.array_equal(color, films[1]["sawyer"])


def test_who_is_shown(studio, films):
    arm = {f"right_l{i}" for i in range(7)} | {"head", "pedestal", "right_arm_base_link"}
    seen = {name: _bodies_seen(studio, film) for name, film in films[0].items()}
    assert len(arm & seen["sawyer"]) > 6
    assert seen["bare-gripper"] & {"right_hand", "hand", "rightpad", "leftpad"}
    assert not seen["bare-gripper"] & arm
    for name in PUPPETS:
        own = {one for one in seen[name] if one.startswith(f"{name}/")}
        assert len(own) >= len(PUPPETS[name].parts) - 3  # some are behind others
        assert not seen[name] & (arm | {"right_hand", "hand", "rightpad", "leftpad"})
        other = next(one for one in PUPPETS if one != name)
        assert not any(one.startswith((f"{other}/", "prop/")) for one in seen[name])
    assert all("drawer_link" in bodies for bodies in seen.values())


def test_the_rest_of_the_scene_moves_the_same(studio, films):
    base = films[0]["sawyer"]
    arm = studio.robot
    for film in films[0].values():
        own = np.array([not name.startswith(tuple(PUPPETS)) for name in studio.body_names()])
        assert np.array_equal(film.body_pose[:, own], base.body_pose[:, own])
        # where both show something of the task, they show it at the same depth
        scene = np.ones(len(base.object_body), bool)
        scene[: len(arm)] = ~arm
        scene[np.isin(base.object_body, np.flatnonzero(~own))] = False
        both = (film.object_id >= 0) & (base.object_id >= 0)
        both &= scene[film.object_id] & scene[base.object_id]
        assert both.mean() > 0.35
        same = film.object_id[both] == base.object_id[both]
        assert same.mean() > 0.999  # but for edges, where a few of 10⁵ pixels round otherwise
        assert np.allclose(film.depth_m[both][same], base.depth_m[both][same], atol=1e-4)


@pytest.mark.parametrize("name", list(PUPPETS))
def test_puppet_is_where_it_says(drawer, studio, name):
    """MuJoCo's own kinematics against the closed form, in any order of states."""
    studio.embody(name)
    studio.load(drawer.rollout)
    names = studio.body_names()
    seen = {}
    for t in (4, 0, 9, 4):
        studio.put(drawer.states[t])
        poses = studio.body_poses()
        for part, wanted in PUPPETS[name].pose(studio.grip()).items():
            assert np.allclose(poses[names.index(f"{name}/{part}")], wanted, atol=1e-9)
        assert np.array_equal(seen.setdefault(t, poses), poses)
    hand = PUPPETS[name].pose(studio.grip())["palm" if name == "hand-like" else "tool"]
    assert np.array_equal(hand, studio.body_poses()[names.index("hand")])


def test_grip_is_read_from_the_pads(drawer, studio):
    studio.embody("sawyer")
    studio.load(drawer.rollout)
    names, poses = studio.body_names(), studio.body_poses()
    across = poses[names.index("hand")][:3, 1]
    left, right = (
        poses[names.index(pad)][:3, 3] - poses[names.index("hand")][:3, 3] for pad in ("leftpad", "rightpad")
    )
    assert studio.grip().left_m == pytest.approx(left @ across)
    assert studio.grip().right_m == pytest.approx(right @ across)
    assert studio.grip().left_m > 0 > studio.grip().right_m


@pytest.mark.parametrize("name", EMBODIMENTS)
def test_depth_and_identity_equal_an_independent_ray_caster(cast_ray, drawer, studio, films, name):
    studio.embody(name)
    studio.load(drawer.rollout)
    studio.put(drawer.states[::3][-1])
    film, same, error = films[0][name], [], []
    for y in range(3, SIZE[1], 11):
        for x in range(5, SIZE[0], 11):
            seen = film.object_id[-1, y, x]
            if seen >= studio.model.ngeom:
                continue  # a goal marker: rays pass through sites
            geom, z = cast_ray(studio, film.cameras[0], (x, y))
            same.append(geom == seen)
            if geom == seen >= 0:
                error.append(abs(film.depth_m[-1, y, x] - z))
    assert np.mean(same) > 0.97
    assert np.median(error) < 1e-5
    assert np.quantile(error, 0.9) < 2e-3  # drawn spheres and capsules have facets


@pytest.mark.parametrize("name", EMBODIMENTS)
def test_keypoints_are_on_what_is_shown_and_move_with_it(studio, films, name):
    film = films[0][name]
    query, pixel = sample_points(film, np.array([0, 2]), 120, np.random.default_rng(0))
    traces = traces_of(film, query, pixel)
    assert traces.valid.all()
    names = np.array(studio.body_names())
    moving = set(names[traces.part_id[traces.moving]].tolist())
    if name in PUPPETS:
        assert {one.split("/")[0] for one in moving if "/" in one} == {name}
        assert len(moving) >= 4
        assert not any(one.startswith(("right_", "leftclaw", "rightclaw")) for one in moving)
    elif name == "bare-gripper":
        assert not any(one.startswith("right_l") and one != "right_l6" for one in moving)
    for part in np.unique(traces.part_id[traces.part_id >= 0]):  # rigid: distances within a part stay
        own = traces.xyz_world[:, traces.part_id == part].astype(float)
        lengths = np.linalg.norm(own - own[:, :1], axis=-1)
        assert np.ptp(lengths, axis=0).max() < 1e-6


def test_loading_puts_everything_back(drawer, studio, films):
    for name in ("hand-like", "other-arm", "bare-gripper", "sawyer"):
        studio.embody(name)
        studio.load(drawer.rollout)
    assert np.array_equal(studio.model.geom_group, studio._pristine["geom_group"])
    with pytest.raises(ConfigError, match="hand-like"):
        studio.embody("handlike")
    assert studio.embodiment == "sawyer"


def test_states_of_a_task_fit_whatever_is_appended(drawer, studio):
    model, _ = drawer.world.model_and_file()
    for count in ("nbody", "ngeom", "nsite", "nlight"):
        assert getattr(studio.model, count) >= getattr(model, count)
    assert studio.num_own == model.ngeom
    assert [studio.model.joint(j).name for j in range(model.njnt)] == [model.joint(j).name for j in range(model.njnt)]
    assert np.array_equal(studio.model.geom_dataid[: model.ngeom], model.geom_dataid)
