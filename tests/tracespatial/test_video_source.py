"""Manipulation video: the calibration check, grip points, segments, and LeRobot episodes as scenes with recorded traces."""

import json

import numpy as np
import pytest
from lerobot_toys import CAMERAS, SIZE, Demos, write_v21
from qa_scenes import camera
from scipy.spatial.transform import Rotation

from traceworld.errors import ConfigError, DatasetError, ExtractionError, InvalidInputError
from traceworld.traces.demonstrations import Demonstration
from traceworld.traces.robot import ActionSpec
from traceworld.traces.types import Camera
from traceworld.tracespatial.checker import check
from traceworld.tracespatial.questions.asking import Mix, ask_all
from traceworld.tracespatial.sources import views
from traceworld.tracespatial.video_rules import (
    RULES,
    Segment,
    calibration_holds,
    closures,
    consistency,
    grip_points,
    hidden,
    key_points,
    rules_of,
    segments,
)
from traceworld.tracespatial.video_source import VideoSource, read_calibration


def a_camera():
    return Camera(np.array([[100.0, 0, 50], [0, 100, 40], [0, 0, 1]]), np.eye(4), 100, 80)


def test_a_frame_is_consistent_within_five_centimetres():
    xyz = np.array([[0.0, 0.0, 1.0]] * 3 + [[5.0, 0, 1.0]])  # the last lies outside the picture
    depths = [np.full((80, 100), depth, np.float32) for depth in (1.049, 1.051, 0.951, 1.0)]
    assert consistency(xyz, depths, a_camera(), False) == (2, 3)


@pytest.mark.parametrize(("blind_counts", "expected"), [(True, (1, 1)), (False, (0, 0))])
def test_a_hole_counts_for_agibot_alone(blind_counts, expected):
    assert consistency(np.array([[0.0, 0, 1]]), [np.zeros((80, 100), np.float32)], a_camera(), blind_counts) == expected


@pytest.mark.parametrize(
    ("name", "consistent", "tested", "holds"),
    [
        ("droid", 364, 1000, True), ("droid", 302, 1000, False), ("droid", 1, 3, False), ("droid", 0, 0, False),
        ("agibot", 84, 100, True), ("agibot", 83, 100, False), ("robotwin", 0, 0, True),
    ],
)  # fmt: skip
def test_thresholds_of_the_sets(name, consistent, tested, holds):
    """The paper's figure accepts 36.4 % and rejects 30.2 %."""
    assert calibration_holds(consistent, tested, rules_of(name)) is holds


@pytest.mark.parametrize(
    ("name", "local"), [("droid", [0, 0, 0.15]), ("agibot", [0, 0, 0.15]), ("robotwin", [0.14, 0, 0])]
)
def test_the_grip_point_lies_along_the_local_axis(name, local):
    turns = Rotation.random(5, random_state=0).as_matrix()
    position = np.random.default_rng(0).normal(size=(5, 3))
    found = grip_points(position, turns, RULES[name])
    assert found == pytest.approx(position + turns @ np.array(local))


def test_closures_are_half_open():
    closed = np.array([0, 0, 1, 1, 0, 1, 0, 1, 1], bool)
    assert closures(closed) == [(2, 4), (5, 6), (7, 9)]
    assert closures(np.zeros(4, bool)) == []


def test_droid_wants_one_closure_and_robotwin_takes_all():
    twice = np.array([0, 1, 1, 0, 0, 1, 1, 1, 0], bool)
    assert segments(twice, RULES["droid"]) == []
    assert segments(twice, RULES["robotwin"]) == [Segment(1, 3), Segment(5, 8)]
    assert segments(np.array([0, 1, 1, 0], bool), RULES["droid"]) == [Segment(1, 3)]


def test_the_picture_is_from_sixty_frames_before():
    assert Segment(100, 120).base == 40
    assert Segment(25, 30).base == 0


def test_hidden_by_missing_depth():
    depth = np.ones((80, 100), np.float32)
    assert not hidden(np.array([0.0, 0, 1]), depth, a_camera())
    depth[:, :50] = 0  # half of the neighbourhood is not enough, most of it is
    assert not hidden(np.array([0.0, 0, 1]), depth, a_camera())
    depth[:, :62] = 0
    assert hidden(np.array([0.0, 0, 1]), depth, a_camera())
    assert hidden(np.array([0.0, 0, -1]), depth, a_camera())


def test_paths_are_dropped_with_a_reason():
    cam = a_camera()
    line = np.linspace([0, 0, 1], [0.2, 0, 1], 30)
    assert key_points(line, cam) == pytest.approx(line[[0, -1]])
    assert key_points(line * [0.1, 1, 1], cam) == "too short"
    assert key_points(line + np.array([0.4, 0, 0]), cam) == "out of the picture"
    zigzag = line + np.where(np.arange(30) % 2, 0.05, 0)[:, None] * [0, 1, 0]
    assert key_points(zigzag, cam) == "too many points"


# --- LeRobot episodes -------------------------------------------------------------------------------------------------

STATES = ("x", "y", "z", "rx", "ry", "rz", "grip")
LENGTH = 24


def pick_and_place(number, closures=1):
    """Down to (0, 0, 0.1), closed from frame 8 to 18 while it moves 0.2 m to the right, open again. Tool axis down."""
    t = np.arange(LENGTH)
    state = np.zeros((LENGTH, 7), np.float32)
    state[:, 0] = np.interp(t, [8, 17], [-0.1, 0.1])
    state[:, 2] = np.interp(t, [0, 8, 12, 17, 23], [0.4, 0.25, 0.35, 0.25, 0.4])
    state[:, 3] = np.pi  # turned about x: the local z points down
    state[:, 6] = np.where((t >= 8) & (t < 18), 0.01, 0.08)
    if closures == 2:
        state[20:23, 6] = 0.01

    def read_frame(camera_name, frame):
        return np.full((SIZE[1], SIZE[0], 3), 40 + 5 * frame, np.uint8)

    action = np.zeros((LENGTH, 3), np.float32)
    return Demonstration(f"e{number}", "put the cup to the right", 10.0, state, action, CAMERAS, read_frame, None)


class Recordings(Demos):
    def __init__(self, *demos):
        self.items = list(demos)


def scene_camera():
    whole = camera(eye=(0.0, -1.0, 0.6), at=(0.0, 0.0, 0.2))
    K = np.array([[40.0, 0, SIZE[0] / 2], [0, 40, SIZE[1] / 2], [0, 0, 1]])
    return Camera(K, whole.cam_from_world, *SIZE)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    import lerobot_toys

    spec = ActionSpec(("a", "b", "c"), (-1.0,) * 3, (1.0,) * 3, 10.0, STATES)
    monkeypatch.setattr(lerobot_toys, "SPEC", spec)
    root = write_v21(tmp_path / "robot", Recordings(pick_and_place(0), pick_and_place(1, closures=2)), video=())
    info = json.loads((root / "meta" / "info.json").read_text())
    info["features"]["observation.state"] = {"dtype": "float32", "shape": [7], "names": {"motors": list(STATES)}}
    (root / "meta" / "info.json").write_text(json.dumps(info))
    cam = scene_camera()
    about = {
        "camera": CAMERAS[0], "K": cam.K.tolist(), "cam_from_base": cam.cam_from_world.tolist(),
        "position": ["x", "y", "z"], "rotation": ["rx", "ry", "rz"], "rotation_kind": "euler_xyz",
        "gripper": "grip", "closed_below": 0.02,
    }  # fmt: skip
    (root / "calibration.json").write_text(json.dumps(about))
    return root


def without_check(source):
    """The calibration check has its own tests; toy recordings have no depth."""
    from dataclasses import replace

    source.rules = replace(source.rules, consistent_share=None)
    return source


def test_an_episode_gives_the_object_while_held_and_the_gripper_before(folder):
    source = without_check(VideoSource(folder, "droid"))
    assert list(source.scene_ids()) == ["episode_000000-0"]  # the second closes twice
    scene = source.load("episode_000000-0")
    assert scene.source == "video"
    assert scene.image[0, 0, 0] == pytest.approx(40, abs=3)  # frame 0: Fb = max(0, 8 - 60)
    held, whole = source.traces(scene, 0, 5)
    assert (held.kind, whole.kind) == ("object", "end-effector")
    assert len(held.recorded_world) == 10
    assert len(whole.recorded_world) == 18
    # The grip point hangs 0.15 m below the flange.
    assert held.traces[0].points_world[0] == pytest.approx([-0.1, 0, 0.10], abs=1e-6)
    assert held.traces[0].points_world[-1] == pytest.approx([0.1, 0, 0.10], abs=1e-6)
    assert whole.traces[0].points_world[0] == pytest.approx([-0.1, 0, 0.25], abs=1e-6)
    assert held.traces[0].direction == "right"
    assert held.traces[0].instruction == "put the cup to the right"


def test_their_questions_pass_the_checker_and_faults_do_not(folder):
    source = without_check(VideoSource(folder, "droid"))
    scene = source.load("episode_000000-0")
    for view in views(source, scene, 0, 5):
        found = ask_all(view, Mix(), 0)
        assert [one.program["form"] for one in found] == ["2d", "3d", "lift"]
        for one in found:
            program = {**one.program, "scene": view.fingerprint}
            assert check(scene, one.text, one.answer, program) == ""
            elsewhere = (np.array(program["recorded_world"]) + np.array([0, 0, 0.05])).tolist()
            assert check(scene, one.text, one.answer, {**program, "recorded_world": elsewhere})
            detour = [*program["recorded_world"][:5], [0.0, 0.3, 0.5], *program["recorded_world"][5:]]
            assert check(scene, one.text, one.answer, {**program, "recorded_world": detour})
            shorter = one.answer.replace("[(", "[(9", 1)
            assert check(scene, one.text, shorter, program)


def test_robotwin_takes_every_closure_along_the_local_x(folder):
    source = VideoSource(folder, "robotwin")
    assert list(source.scene_ids()) == ["episode_000000-0", "episode_000001-0", "episode_000001-1"]
    held, _ = source.traces(source.load("episode_000000-0"), 0, 1)
    assert held.recorded_world[0] == pytest.approx([-0.1 + 0.14, 0, 0.25], abs=1e-6)


@pytest.mark.parametrize(("offset_m", "accepted"), [(0.02, True), (0.30, False)])
def test_a_calibration_that_depth_contradicts_is_refused(folder, monkeypatch, offset_m, accepted):
    source = VideoSource(folder, "droid")
    cam = scene_camera()
    flange = pick_and_place(0).state[:, :3].astype(np.float64)

    def depth(scene_id, frame):
        z = (cam.cam_from_world[:3, :3] @ flange[frame] + cam.cam_from_world[:3, 3])[2]
        return np.full((SIZE[1], SIZE[0]), z + offset_m, np.float32)

    monkeypatch.setattr(source, "_depth", depth)
    if accepted:
        assert source.load("episode_000000-0").depth_m.max() > 0
    else:
        with pytest.raises(ExtractionError, match="holds in 0 of 20"):
            source.load("episode_000000-0")


def test_without_depth_nothing_can_be_tested(folder):
    with pytest.raises(ExtractionError, match="depth"):
        VideoSource(folder, "droid").load("episode_000000-0")


def test_what_is_wrong_is_named(folder):
    with pytest.raises(InvalidInputError):
        VideoSource(folder).load("episode_000009-0")
    with pytest.raises(ConfigError, match="bridge"):
        VideoSource(folder, "bridge")
    about = json.loads((folder / "calibration.json").read_text())
    for changed, message in (
        ({"rotation_kind": "matrix"}, "rotation"),
        ({"closed_above": 0.5}, "closed_below"),
        ({"gripper": "claw"}, "claw"),
    ):
        (folder / "calibration.json").write_text(json.dumps(about | changed))
        with pytest.raises(DatasetError, match=message):
            list(VideoSource(folder).scene_ids())
    (folder / "calibration.json").write_text(json.dumps({name: about[name] for name in about if name != "K"}))
    with pytest.raises(DatasetError, match="'K'"):
        read_calibration(folder)
