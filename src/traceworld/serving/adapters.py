"""Key layouts of observations: those that existing openpi clients send, and that of a policy's own LeRobot dataset.

| layout | pictures | state | actions |
|---|---|---|---|
| `libero` | `observation/image`, `observation/wrist_image` | `observation/state` [8] | 7 |
| `droid` | `observation/exterior_image_1_left`, `observation/wrist_image_left` | `observation/joint_position` [7], `observation/gripper_position` [1] | 8 |
| `aloha` | `images`: `cam_high`, and `cam_low`, `cam_left_wrist`, `cam_right_wrist` if it has them; [3,H,W] | `state` [14] | 14 |
| `metaworld` | `observation/image`, and `observation/wrist_image` if it has one | `observation/state` [4] | 4 |
| `lerobot` | `observation.images.CAMERA` | `observation.state` | as in the demonstrations that the policy learned from |

and `prompt` in all (`lerobot` takes `task` as well, as its frames call it). Pictures are uint8, or floats from 0 to 1, with the colour axis last or first. State and actions are in the
robot's own unit and order: normalising is the policy's business. Any request may also hold the `traceworld/…` keys of
`extensions.py`; other keys are ignored, as openpi's server does.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from traceworld.errors import ConfigError, InvalidInputError
from traceworld.policies.policy import Policy
from traceworld.serving.extensions import PREFIX, Extras, read_extras
from traceworld.traces.robot import ActionChunk, ActionSpec, RobotObservation

MAX_SIDE = 4096
MAX_PROMPT = 4096


@dataclass(frozen=True)
class Picture:
    """Where a camera's picture stands: keys from the request inwards; `required` False: the robot may lack it."""

    camera: str
    path: tuple[str, ...]
    required: bool = True


@dataclass(frozen=True)
class Adapter:
    """One layout.

    Attributes:
        name: how it is chosen.
        pictures: the scene camera first, the one on the gripper is called `wrist`.
        state: (key, how many numbers), in the order in which they make up `RobotObservation.state`.
        action_dim: numbers per action.
        channels_first: what a picture is taken for that could be read both ways.
        prompt: the key of the instruction; `prompt` itself is always understood.
    """

    name: str
    pictures: tuple[Picture, ...]
    state: tuple[tuple[str, int], ...]
    action_dim: int
    channels_first: bool = False
    prompt: str = "prompt"

    def read(
        self, request: Any, default_prompt: str | None = None, default_step: int = 0
    ) -> tuple[RobotObservation, Extras]:
        """An observation, and what else was asked for.

        Args:
            request: the unpacked message.
            default_prompt: the instruction of requests without `prompt`.
            default_step: the step of requests that neither say one nor begin an episode.

        Raises:
            InvalidInputError: a key is missing, or its value is not what the layout says; names the key.
        """
        if not isinstance(request, dict):
            raise InvalidInputError(f"is a {type(request).__name__}", where="request", mend="send a map")
        extras = read_extras(request)
        images = {}
        for picture in self.pictures:
            found = _find(request, picture.path, picture.required, self.name)
            if found is not None:
                images[picture.camera] = read_picture(found, "/".join(picture.path), self.channels_first)
        state = [_numbers(_find(request, (key,), True, self.name), key, size) for key, size in self.state]
        observation = RobotObservation(
            images=images,
            state=np.concatenate(state),
            instruction=_prompt(request, self.prompt, default_prompt),
            depth_m=extras.depth_m,
            cameras=extras.cameras_of(images),
            step=_step(extras, default_step),
        )
        committed = extras.committed
        if committed is not None and committed.shape[1] != self.action_dim:
            raise InvalidInputError(
                f"has {committed.shape[1]} numbers per action",
                where=f"{PREFIX}committed",
                mend=f"send {self.action_dim}",
            )
        for camera, depth in extras.depth_m.items():
            if depth.shape != images[camera].shape[:2]:
                raise InvalidInputError("has another size than the picture", where=f"{PREFIX}depth_m: {camera}")
        return observation, extras

    def ask(self, observation: RobotObservation) -> dict[str, Any]:
        """The request that `read` reads as this observation: what a client of such a server sends.

        Raises:
            InvalidInputError: the observation lacks a camera, or has another number of states.
        """
        request: dict[str, Any] = {self.prompt: observation.instruction}
        sent = self.cameras_of(observation)
        for picture in self.pictures:
            if picture.camera not in sent:
                if picture.required:
                    raise InvalidInputError(
                        f"has no camera '{picture.camera}', which '{self.name}' wants",
                        where="RobotObservation.images",
                        mend=f"it has {', '.join(observation.images)}",
                    )
                continue
            image = observation.images[sent[picture.camera]]
            inner = request
            for key in picture.path[:-1]:
                inner = inner.setdefault(key, {})
            inner[picture.path[-1]] = np.moveaxis(image, 2, 0) if self.channels_first else image
        sizes = [size for _, size in self.state]
        if len(observation.state) != sum(sizes):
            raise InvalidInputError(
                f"has {len(observation.state)} numbers, '{self.name}' takes {sum(sizes)}",
                where="RobotObservation.state",
            )
        parts = np.split(observation.state, np.cumsum(sizes)[:-1])
        return request | {key: part for (key, _), part in zip(self.state, parts, strict=True)}

    def cameras_of(self, observation: RobotObservation) -> dict[str, str]:
        """Name here → name in the observation: the scene camera whatever it is called, the others by their names."""
        scene, *others = self.pictures
        there = {scene.camera: observation.scene_camera}
        return there | {each.camera: each.camera for each in others if each.camera in observation.images}

    def write(self, chunk: ActionChunk) -> dict[str, Any]:
        """The answer's actions; the caller adds timing (and traces, on request).

        Only `actions` is an array: openpi's `ActionChunkBroker` cuts every array of an answer by control step.

        Raises:
            ConfigError: the policy's actions are not this robot's.
        """
        if chunk.actions.shape[1] != self.action_dim:
            raise ConfigError(
                f"the policy gives {chunk.actions.shape[1]} numbers per action, '{self.name}' takes {self.action_dim}",
                where="policy",
                mend="serve a policy of this robot, or choose its adapter",
            )
        return {"actions": np.ascontiguousarray(chunk.actions, np.float32), f"{PREFIX}done": chunk.done}

    def describe(self) -> dict[str, Any]:
        """What the server's metadata say of the layout."""
        return {
            "adapter": self.name,
            "images": ["/".join(picture.path) for picture in self.pictures],
            "state": dict(self.state),
            "action_dim": self.action_dim,
            "prompt_key": self.prompt,
        }

    def example(self, seed: int = 0, size: int = 224) -> dict[str, Any]:
        """A request of noise, for trying a server out."""
        rng = np.random.default_rng(seed)
        request: dict[str, Any] = {self.prompt: "do something"}
        shape = (3, size, size) if self.channels_first else (size, size, 3)
        for picture in self.pictures:
            inner = request
            for key in picture.path[:-1]:
                inner = inner.setdefault(key, {})
            inner[picture.path[-1]] = rng.integers(0, 256, shape, dtype=np.uint8)
        return request | {key: rng.random(count) for key, count in self.state}


def adapter_named(name: str) -> Adapter:
    """The layout of that name, for any policy.

    Raises:
        ConfigError: there is none; lists those there are.
    """
    if name in ADAPTERS:
        return ADAPTERS[name]
    raise ConfigError(
        f"no adapter is called '{name}'", where="adapter", mend=f"one of {', '.join(ADAPTERS)}, {LEROBOT}"
    )


def adapter_for(name: str, policy: Policy) -> Adapter:
    """The layout of that name, for a policy: `lerobot` asks for what the policy learned from.

    Args:
        policy: whose `spec` (`ActionSpec`) and `cameras`, where it has them, decide.

    Raises:
        ConfigError: there is none; the policy does not say what it learned from, or acts on another robot than the layout's.
    """
    spec: ActionSpec | None = getattr(policy, "spec", None)
    if name != LEROBOT:
        adapter = adapter_named(name)
        sizes = adapter.action_dim, sum(size for _, size in adapter.state)
        own = sizes if spec is None else (spec.dim, len(spec.state_names) or sizes[1])
        if own != sizes:
            raise ConfigError(
                f"'{policy.name}' has {own[0]} numbers per action and {own[1]} of state, '{name}' {sizes[0]} and {sizes[1]}",
                where="adapter",
                mend=f"choose its robot's, or '{LEROBOT}' for the layout of the dataset it learned from",
            )
        return adapter
    cameras = tuple(getattr(policy, "cameras", ()))
    if spec is None or not spec.state_names or not cameras:
        raise ConfigError(
            f"'{policy.name}' does not say which cameras, state and actions it learned from",
            where=f"adapter '{LEROBOT}'",
            mend=f"choose one of {', '.join(ADAPTERS)}",
        )
    return lerobot_adapter(cameras, len(spec.state_names), spec.dim)


def lerobot_adapter(cameras: Sequence[str], state_dim: int, action_dim: int) -> Adapter:
    """The layout of a LeRobot dataset's frames, the scene camera first."""
    return Adapter(
        LEROBOT,
        tuple(Picture(camera, (f"observation.images.{camera}",)) for camera in cameras),
        state=(("observation.state", state_dim),),
        action_dim=action_dim,
        prompt="task",
    )


def read_picture(value: Any, where: str, channels_first: bool = False) -> UInt8[np.ndarray, "H W 3"]:
    """A picture as uint8 with the colour axis last, from uint8 or from floats in [0,1], colour axis first or last.

    Raises:
        InvalidInputError: not a picture.
    """
    if not isinstance(value, np.ndarray) or value.ndim != 3:
        what = f"of shape {value.shape}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
        raise InvalidInputError(f"is {what}", where=where, mend="send an array [H,W,3] or [3,H,W]")
    first, last = value.shape[0] == 3, value.shape[2] == 3
    if not (first or last):
        raise InvalidInputError(f"has shape {value.shape}", where=where, mend="send [H,W,3] or [3,H,W]")
    image = np.moveaxis(value, 0, 2) if first and (channels_first or not last) else value
    height, width, _ = image.shape
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
        raise InvalidInputError(f"is {width}×{height} pixels", where=where, mend=f"send 1 to {MAX_SIDE} pixels a side")
    if image.dtype == np.uint8:
        return np.ascontiguousarray(image)
    if image.dtype.kind != "f":
        raise InvalidInputError(f"is of {image.dtype}", where=where, mend="send uint8, or floats from 0 to 1")
    if not (image >= 0).all() or not (image <= 1).all():  # NaN fails the first
        raise InvalidInputError("has floats outside [0, 1]", where=where, mend="send uint8, or floats from 0 to 1")
    return (255 * image.astype(np.float32)).astype(np.uint8)


def _find(request: Mapping[str, Any], path: tuple[str, ...], required: bool, layout: str) -> Any:
    inner: Any = request
    for depth, key in enumerate(path):
        where = "/".join(path[: depth + 1])
        if not isinstance(inner, dict):
            raise InvalidInputError(
                "is not a map", where="/".join(path[:depth]), mend=f"'{layout}' wants {where} in it"
            )
        if key not in inner:
            if not required and depth == len(path) - 1:
                return None
            near = difflib.get_close_matches(key, [k for k in inner if isinstance(k, str)], n=1, cutoff=0.75)
            mend = f"it has '{near[0][:60]}'" if near else f"'{layout}' wants it"
            raise InvalidInputError("is missing", where=where, mend=mend)
        inner = inner[key]
    if inner is None:
        raise InvalidInputError("is null", where="/".join(path))
    return inner


def _numbers(value: Any, where: str, size: int) -> Float32[np.ndarray, " P"]:
    given = value
    if isinstance(value, list) and len(value) <= 64 and all(isinstance(each, int | float) for each in value):
        given = np.asarray(value, np.float64)
    if isinstance(value, float | int | np.number) and size == 1:
        given = np.asarray([value], np.float64)
    if not isinstance(given, np.ndarray) or given.dtype.kind not in "fiu":
        raise InvalidInputError(f"is a {_kind(value)}", where=where, mend=f"send an array of {size} numbers")
    if given.shape != (size,):
        raise InvalidInputError(f"has shape {given.shape}", where=where, mend=f"send {size} numbers")
    with np.errstate(over="ignore"):
        numbers = given.astype(np.float32)
    if not np.isfinite(numbers).all():
        raise InvalidInputError("holds NaN or infinity", where=where)
    return numbers


def _step(extras: Extras, default: int) -> int:
    if extras.step is not None:
        return extras.step
    return default if extras.reset_seed is None else 0


def _kind(value: Any) -> str:
    return f"array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__


def _prompt(request: Mapping[str, Any], key: str, default: str | None) -> str:
    value = request.get(key, request.get("prompt", default))
    if isinstance(value, np.ndarray) and value.size == 1 and value.dtype.kind == "U":  # openpi takes such texts too
        value = value.item()
    if value is None:
        raise InvalidInputError("is missing", where=key, mend="say what to do, or start the server with a prompt")
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_PROMPT:
        raise InvalidInputError("is no instruction", where=key, mend=f"send text of 1 to {MAX_PROMPT} characters")
    return str(value)


_WRIST = Picture("wrist", ("observation/wrist_image",))
LIBERO = Adapter(
    "libero", (Picture("scene", ("observation/image",)), _WRIST), state=(("observation/state", 8),), action_dim=7
)
DROID = Adapter(
    "droid",
    (
        Picture("scene", ("observation/exterior_image_1_left",)),
        Picture("wrist", ("observation/wrist_image_left",)),
    ),
    state=(("observation/joint_position", 7), ("observation/gripper_position", 1)),
    action_dim=8,
)
ALOHA = Adapter(
    "aloha",
    (
        Picture("scene", ("images", "cam_high")),
        Picture("low", ("images", "cam_low"), required=False),
        Picture("left_wrist", ("images", "cam_left_wrist"), required=False),
        Picture("right_wrist", ("images", "cam_right_wrist"), required=False),
    ),
    state=(("state", 14),),
    action_dim=14,
    channels_first=True,
)
METAWORLD = Adapter(
    "metaworld",
    (Picture("scene", ("observation/image",)), Picture("wrist", ("observation/wrist_image",), required=False)),
    state=(("observation/state", 4),),
    action_dim=4,
)

ADAPTERS = {adapter.name: adapter for adapter in (LIBERO, DROID, ALOHA, METAWORLD)}
LEROBOT = "lerobot"
