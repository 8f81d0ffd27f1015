"""The layouts: what stands where in published clients' requests, and that everything else is refused by name."""

import re
from dataclasses import replace

import numpy as np
import pytest
from serving_toys import Echo

from traceworld.errors import ConfigError, InvalidInputError
from traceworld.serving.adapters import (
    ADAPTERS,
    ALOHA,
    DROID,
    LIBERO,
    METAWORLD,
    adapter_for,
    adapter_named,
    read_picture,
)
from traceworld.serving.codec import pack, unpack
from traceworld.serving.extensions import PREFIX, read_extras, write_traces
from traceworld.traces.robot import ActionChunk, ActionSpec, RobotObservation
from traceworld.traces.types import TracePrediction

rng = np.random.default_rng(0)
IMAGE = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
WRIST = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)


def metaworld(**changes):
    request = {"observation/image": IMAGE, "observation/state": np.arange(4.0), "prompt": "open the drawer"}
    return {key: value for key, value in {**request, **changes}.items() if value is not ...}


def test_libero_is_read_as_its_client_sends_it():
    request = {
        "observation/image": IMAGE,
        "observation/wrist_image": WRIST,
        "observation/state": np.arange(8.0),
        "prompt": "pick up the bowl",
    }
    observation, extras = LIBERO.read(request)
    assert list(observation.images) == ["scene", "wrist"]
    assert observation.scene_camera == "scene"
    assert np.array_equal(observation.images["scene"], IMAGE)
    assert np.array_equal(observation.images["wrist"], WRIST)
    assert observation.state.dtype == np.float32
    assert np.array_equal(observation.state, np.arange(8))
    assert observation.instruction == "pick up the bowl"
    assert (extras.reset_seed, extras.step, extras.return_traces) == (None, None, False)


def test_droid_joins_joints_and_gripper():
    request = {
        "observation/exterior_image_1_left": IMAGE,
        "observation/wrist_image_left": WRIST,
        "observation/joint_position": np.arange(7.0),
        "observation/gripper_position": np.array([0.5]),
        "prompt": "wipe",
        "observation/exterior_image_2_left": IMAGE,  # sent by some, read by none
    }
    observation, _ = DROID.read(request)
    assert list(observation.images) == ["scene", "wrist"]
    assert np.array_equal(observation.state, np.float32([*range(7), 0.5]))
    alone = DROID.read(request | {"observation/gripper_position": 0.5})[0]
    assert np.array_equal(alone.state, observation.state)


def test_aloha_has_its_pictures_in_a_map_with_the_colour_axis_first():
    pictures = {"cam_high": np.moveaxis(IMAGE, 2, 0), "cam_right_wrist": np.moveaxis(WRIST, 2, 0)}
    observation, _ = ALOHA.read({"images": pictures, "state": np.ones(14), "prompt": "fold"})
    assert list(observation.images) == ["scene", "right_wrist"]
    assert np.array_equal(observation.images["scene"], IMAGE)
    assert observation.images["scene"].flags.c_contiguous
    narrow = np.zeros((3, 5, 3), np.uint8)
    narrow[1] = 9  # the second colour, if the colours come first
    assert (read_picture(narrow, "x", channels_first=True)[..., 1] == 9).all()
    assert np.array_equal(read_picture(narrow, "x"), narrow)


@pytest.mark.parametrize("name", list(ADAPTERS))
def test_examples_are_read_over_the_wire(name):
    adapter = adapter_named(name)
    observation, _ = adapter.read(unpack(pack(adapter.example(3, size=32))))
    assert observation.images["scene"].shape == (32, 32, 3)
    assert len(observation.state) == {"libero": 8, "droid": 8, "aloha": 14, "metaworld": 4}[name]
    assert adapter.describe()["action_dim"] == {"libero": 7, "droid": 8, "aloha": 14, "metaworld": 4}[name]


@pytest.mark.parametrize("name", [*ADAPTERS, "lerobot"])
def test_what_is_asked_is_read_as_what_was_seen(name):
    adapter = adapter_for(name, Trained() if name == "lerobot" else Echo())
    seen, _ = adapter.read(adapter.example(2, size=8))
    names = {"scene": "corner4"}  # every simulator calls its scene camera otherwise
    images = {names.get(camera, camera): image for camera, image in seen.images.items()}
    asked = adapter.ask(RobotObservation(images, seen.state, "push"))
    again, _ = adapter.read(unpack(pack(asked)))
    assert list(again.images) == list(seen.images)
    assert all(np.array_equal(again.images[camera], seen.images[camera]) for camera in seen.images)
    assert np.array_equal(again.state, seen.state)
    assert again.instruction == "push"


def test_what_cannot_be_asked_is_named():
    seen = RobotObservation({"front": IMAGE}, np.zeros(4, np.float32), "push")
    assert "observation/wrist_image" not in METAWORLD.ask(seen)  # it may lack it
    with pytest.raises(InvalidInputError, match=r"no camera 'wrist', which 'droid' wants(?s:.*)it has front"):
        DROID.ask(seen)
    with pytest.raises(InvalidInputError, match="has 3 numbers, 'metaworld' takes 4"):
        METAWORLD.ask(RobotObservation({"front": IMAGE}, np.zeros(3, np.float32), "push"))


def test_float_pictures_become_bytes_as_openpi_makes_them():
    values = np.array([0.0, 0.5, 0.999, 1.0], np.float64)
    image = np.repeat(values[None, :, None], 3, axis=2)
    for given in (image, image.astype(np.float32), np.moveaxis(np.concatenate([image, image]), 2, 0)):
        assert read_picture(given, "x")[0, :, 0].tolist() == [0, 127, 254, 255]


@pytest.mark.parametrize(
    "picture",
    [
        IMAGE[..., :2],
        IMAGE[..., 0],
        IMAGE.astype(np.int64),
        IMAGE.astype(np.float32),  # 0 to 255
        np.full((4, 4, 3), np.nan, np.float32),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4097, 2, 3), np.uint8),
        np.zeros((3, 3, 4097), np.uint8),
        np.array(["x"]),
        "picture",
        None,
        [[1]],
    ],
)
def test_what_is_no_picture_is_refused_by_its_key(picture):
    with pytest.raises(InvalidInputError, match="observation/image"):
        METAWORLD.read(metaworld(**{"observation/image": picture}))


@pytest.mark.parametrize(
    "state",
    [
        np.arange(5.0),
        np.zeros((1, 4)),
        np.full(4, np.nan),
        np.full(4, 1e300),
        np.array(list("abcd")),
        "1",
        None,
        ["a"] * 4,
    ],
)
def test_a_wrong_state_is_refused_by_its_key(state):
    with pytest.raises(InvalidInputError, match="observation/state"):
        METAWORLD.read(metaworld(**{"observation/state": state}))


def test_a_state_may_be_a_list_or_integers():
    for state in ([0, 1, 2.0, 3], np.arange(4)):
        assert METAWORLD.read(metaworld(**{"observation/state": state}))[0].state.tolist() == [0, 1, 2, 3]


def test_a_missing_key_is_named_with_the_one_that_is_like_it():
    request = metaworld(**{"observation/image": ..., "observation/imgae": IMAGE})
    with pytest.raises(InvalidInputError, match=r"observation/image: is missing \(it has 'observation/imgae'\)"):
        METAWORLD.read(request)
    with pytest.raises(InvalidInputError, match="observation/state: is missing"):
        METAWORLD.read(metaworld(**{"observation/state": ...}))
    with pytest.raises(InvalidInputError, match="images/cam_high"):
        ALOHA.read({"images": {}, "state": np.ones(14), "prompt": "x"})
    with pytest.raises(InvalidInputError, match="images: is not a map"):
        ALOHA.read({"images": 3, "state": np.ones(14), "prompt": "x"})
    for request in ([], "x", None, np.zeros(3)):
        with pytest.raises(InvalidInputError, match="request"):
            METAWORLD.read(request)


def test_the_prompt_is_text_or_the_servers_own():
    read = METAWORLD.read
    assert read(metaworld(prompt=np.asarray("push")))[0].instruction == "push"
    assert read(metaworld(prompt=...), default_prompt="pull")[0].instruction == "pull"
    assert read(metaworld(prompt="push"), default_prompt="pull")[0].instruction == "push"
    for prompt in (..., "", "  ", "x" * 5000, 7, b"bytes", np.zeros(1), np.array(["a", "b"])):
        with pytest.raises(InvalidInputError, match="prompt"):
            read(metaworld(prompt=prompt))


def test_steps_are_said_counted_or_begin_anew():
    read = METAWORLD.read
    assert read(metaworld(), default_step=5)[0].step == 5
    assert read(metaworld(**{PREFIX + "step": 17}), default_step=5)[0].step == 17
    assert read(metaworld(**{PREFIX + "reset": True}), default_step=5)[0].step == 0


def test_the_extensions_are_read():
    extras = read_extras(
        {PREFIX + "reset": np.int64(7), PREFIX + "return_traces": np.bool_(True), PREFIX + "step": 3, "x": 1}
    )
    assert (extras.reset_seed, extras.return_traces, extras.step) == (7, True, 3)
    assert read_extras({PREFIX + "reset": True}).reset_seed == 0
    assert read_extras({PREFIX + "reset": False}).reset_seed is None


def test_committed_actions_are_read():
    given = np.arange(8.0).reshape(2, 4)
    _, extras = METAWORLD.read(unpack(pack(metaworld(**{PREFIX + "committed": given}))))
    assert extras.committed.dtype == np.float32
    assert np.array_equal(extras.committed, given)
    assert METAWORLD.read(metaworld())[1].committed is None


class Trained(Echo):
    """A policy that says what it learned from."""

    name = "mine"
    cameras = ("front", "wrist")
    spec = ActionSpec(("pan", "lift", "gripper"), (-1.0,) * 3, (1.0,) * 3, 30.0, ("pan", "lift"))


def lerobot_frame(**changes):
    frame = {
        "observation.images.front": np.moveaxis(IMAGE, 2, 0).astype(np.float32) / 255,  # as LeRobot's loader gives it
        "observation.images.wrist": WRIST,
        "observation.state": np.array([0.1, 0.2], np.float32),
        "task": "fold the cloth",
    }
    return {key: value for key, value in {**frame, **changes}.items() if value is not ...}


def test_a_policys_own_dataset_is_a_layout():
    adapter = adapter_for("lerobot", Trained())
    observation, _ = adapter.read(unpack(pack(lerobot_frame())))
    assert list(observation.images) == ["front", "wrist"]
    assert np.abs(observation.images["front"].astype(int) - IMAGE).max() <= 1
    assert np.array_equal(observation.state, np.float32([0.1, 0.2]))
    assert observation.instruction == "fold the cloth"
    assert adapter.read(lerobot_frame(task=..., prompt="wipe"))[0].instruction == "wipe"
    assert adapter.read(unpack(pack(adapter.example(1, size=8))))[0].images["wrist"].shape == (8, 8, 3)
    said = adapter.describe()
    assert said["images"] == ["observation.images.front", "observation.images.wrist"]
    assert (said["state"], said["action_dim"], said["prompt_key"]) == ({"observation.state": 2}, 3, "task")
    assert adapter.write(ActionChunk(np.zeros((4, 3), np.float32)))["actions"].shape == (4, 3)


def test_a_frame_that_lacks_something_is_refused_by_its_key():
    adapter = adapter_for("lerobot", Trained())
    for key in lerobot_frame():
        with pytest.raises(InvalidInputError, match=f"{re.escape(key)}: is missing"):
            adapter.read(lerobot_frame(**{key: ...}))
    with pytest.raises(InvalidInputError, match=r"observation\.state: has shape"):
        adapter.read(lerobot_frame(**{"observation.state": np.zeros(3)}))


def test_a_layout_is_of_the_policys_robot():
    unsaid = Echo()
    with pytest.raises(ConfigError, match="does not say which cameras"):
        adapter_for("lerobot", unsaid)
    with pytest.raises(
        ConfigError, match=r"'mine' has 3 numbers per action and 2 of state, 'metaworld' 4 and 4.*'lerobot'"
    ):
        adapter_for("metaworld", Trained())
    alike = Trained()
    alike.spec = replace(Trained.spec, names=tuple("abcd"), low=(-1.0,) * 4, high=(1.0,) * 4)
    with pytest.raises(ConfigError, match="4 numbers per action and 2 of state"):
        adapter_for("metaworld", alike)
    alike.spec = replace(alike.spec, state_names=())  # it does not say: the first request will
    assert adapter_for("metaworld", alike) is METAWORLD
    assert adapter_for("metaworld", unsaid) is METAWORLD
    with pytest.raises(ConfigError, match="no adapter is called"):
        adapter_for("metaword", Trained())


def test_depth_and_cameras_reach_the_policy():
    depth = np.full((20, 30), 2.0)
    depth[0, 0] = 0
    K, pose = np.array([[50.0, 0, 15], [0, 50, 10], [0, 0, 1]]), np.eye(4)
    request = metaworld(
        **{PREFIX + "depth_m": {"scene": depth}, PREFIX + "cameras": {"scene": {"K": K, "cam_from_world": pose}}}
    )
    observation, _ = METAWORLD.read(unpack(pack(request)))
    assert np.isnan(observation.depth_m["scene"][0, 0])
    assert observation.depth_m["scene"][1, 1] == 2
    camera = observation.cameras["scene"]
    assert (camera.width, camera.height) == (30, 20)
    assert np.array_equal(camera.K, K)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("return_trace", True),
        ("return_traces", 1),
        ("reset", -1),
        ("reset", "yes"),
        ("step", True),
        ("step", -1),
        ("step", 2.5),
        ("committed", [[0.0] * 4]),
        ("committed", np.zeros(4)),
        ("committed", np.zeros((2, 4), int)),
        ("committed", np.zeros((2, 5))),
        ("committed", np.full((2, 4), np.nan)),
        ("committed", np.full((1, 4), 1e300)),
        ("committed", np.zeros((1025, 4))),
        ("depth_m", np.zeros((20, 30))),
        ("depth_m", {"scene": np.zeros((20, 31))}),
        ("depth_m", {"scene": np.zeros((20, 30), np.uint16)}),
        ("depth_m", {"scene": -np.ones((20, 30))}),
        ("depth_m", {"wrist": np.ones((20, 30))}),
        ("cameras", {"scene": np.eye(4)}),
        ("cameras", {"scene": {"K": np.eye(3)}}),
        ("cameras", {"scene": {"K": np.zeros((3, 3)), "cam_from_world": np.eye(4)}}),
        ("cameras", {"scene": {"K": np.eye(3), "cam_from_world": 2 * np.eye(4)}}),
        ("cameras", {"side": {"K": np.eye(3), "cam_from_world": np.eye(4)}}),
    ],
)
def test_impossible_extensions_are_refused(key, value):
    with pytest.raises(InvalidInputError, match=r"traceworld/|Camera"):
        METAWORLD.read(metaworld(**{PREFIX + key: value}))


def test_actions_are_the_only_array_of_an_answer():
    chunk = ActionChunk(np.ones((5, 4), np.float32), done=True)
    answer = METAWORLD.write(chunk)
    assert [key for key, value in answer.items() if isinstance(value, np.ndarray)] == ["actions"]
    assert answer["actions"].shape == (5, 4)
    assert answer[PREFIX + "done"] is True
    with pytest.raises(ConfigError, match="4 numbers per action, 'libero' takes 7"):
        LIBERO.write(chunk)


def test_traces_travel():
    prediction = TracePrediction(np.zeros((2, 3, 4, 3), np.float32), np.ones((2, 3, 4), bool), text="so", step=0.05)
    back = unpack(pack(write_traces(prediction)))
    assert back["uvz"].shape == (2, 3, 4, 3)
    assert back["valid"].all()
    assert (back["clock"], back["step"], back["text"]) == ("time", 0.05, "so")
    assert write_traces(None) is None


def test_an_unknown_adapter_lists_the_known():
    with pytest.raises(ConfigError, match="libero, droid, aloha, metaworld"):
        adapter_named("liberoo")
