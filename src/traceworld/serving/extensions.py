"""Keys that go beyond openpi's protocol. All are optional, all begin with `traceworld/`; a client that knows none is served.

| key | value |
|---|---|
| `traceworld/reset` | True or a seed: a new episode begins with this request |
| `traceworld/step` | control steps since the episode began |
| `traceworld/return_traces` | True: hand out the predicted traces behind the actions |
| `traceworld/depth_m` | camera → [H,W] metres, NaN or 0 unknown |
| `traceworld/cameras` | camera → {`K` [3,3] px, `cam_from_world` [4,4]} |
| `traceworld/committed` | [J,A] actions that will be played whatever is answered: a policy that can goes on from them |

Cameras are called as in `adapters.py`: `scene`, `wrist`, … The answer has `traceworld/done`, and `traceworld/traces` if asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float32

from traceworld.errors import InvalidInputError
from traceworld.traces.types import Camera, TracePrediction

PREFIX = "traceworld/"
EXTENSIONS = ("reset", "step", "return_traces", "depth_m", "cameras", "committed")
_MAX_STEP = 2**31
_MAX_COMMITTED = 1024


@dataclass(frozen=True, eq=False)
class Extras:
    """What a request asks beyond openpi's protocol.

    Attributes:
        reset_seed: of the episode that begins now; None: the last one goes on.
        step: control steps since the episode began, if said.
        return_traces: hand out the predicted traces.
        depth_m: camera → [H,W].
        poses: camera → (K, cam_from_world).
        committed: [J,A] what will be played meanwhile; None: nothing was said of it.
    """

    reset_seed: int | None = None
    step: int | None = None
    return_traces: bool = False
    depth_m: Mapping[str, Float32[np.ndarray, "_h _w"]] = field(default_factory=dict)
    poses: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    committed: Float32[np.ndarray, "J A"] | None = None

    def cameras_of(self, images: Mapping[str, np.ndarray]) -> dict[str, Camera]:
        """The calibrated cameras, at the sizes of their pictures.

        Raises:
            InvalidInputError: a camera without a picture, or an impossible one.
        """
        for name in ("depth_m", "poses"):
            if unknown := sorted(set(getattr(self, name)) - set(images)):
                key = "cameras" if name == "poses" else name
                raise InvalidInputError(
                    f"no picture of a camera '{unknown[0][:60]}'",
                    where=f"{PREFIX}{key}",
                    mend=f"one of {', '.join(images)}",
                )
        return {
            name: Camera(K, pose, width=images[name].shape[1], height=images[name].shape[0])
            for name, (K, pose) in self.poses.items()
        }


def read_extras(request: Mapping[Any, Any]) -> Extras:
    """The `traceworld/…` keys of a request.

    Raises:
        InvalidInputError: an unknown one, or a value that is not what the table says.
    """
    given = {
        key[len(PREFIX) :]: value for key, value in request.items() if isinstance(key, str) and key.startswith(PREFIX)
    }
    if unknown := sorted(set(given) - set(EXTENSIONS)):
        known = ", ".join(PREFIX + name for name in EXTENSIONS)
        raise InvalidInputError("is unknown", where=PREFIX + unknown[0][:60], mend=f"one of {known}")
    return Extras(
        reset_seed=_seed(given.get("reset", False)),
        step=_step(given.get("step")),
        return_traces=_flag(given.get("return_traces", False), "return_traces"),
        depth_m={name: _depth(value, name) for name, value in _map(given, "depth_m").items()},
        poses={name: _pose(value, name) for name, value in _map(given, "cameras").items()},
        committed=_committed(given.get("committed")),
    )


def write_traces(prediction: TracePrediction | None) -> dict[str, Any] | None:
    """Predicted traces as they travel: `uvz` [S,N,H,3], `valid` [S,N,H], clock, step; None: the policy predicts none."""
    if prediction is None:
        return None
    traces: dict[str, Any] = {
        "uvz": np.ascontiguousarray(prediction.uvz, np.float32),
        "valid": np.ascontiguousarray(prediction.valid),
        "clock": prediction.clock,
        "step": float(prediction.step),
    }
    return traces if prediction.text is None else traces | {"text": prediction.text}


def _flag(value: Any, name: str) -> bool:
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise InvalidInputError("is neither True nor False", where=PREFIX + name)


def _seed(value: Any) -> int | None:
    if isinstance(value, int | np.integer) and not isinstance(value, bool) and 0 <= value < 2**63:
        return int(value)
    try:
        return 0 if _flag(value, "reset") else None
    except InvalidInputError:
        raise InvalidInputError("is neither True, False nor a seed", where=f"{PREFIX}reset") from None


def _step(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= value < _MAX_STEP:
        raise InvalidInputError("is no number of steps", where=f"{PREFIX}step", mend="send 0 or more")
    return int(value)


def _committed(value: Any) -> Float32[np.ndarray, "J A"] | None:
    if value is None:
        return None
    where = f"{PREFIX}committed"
    if not isinstance(value, np.ndarray) or value.ndim != 2 or value.dtype.kind != "f" or len(value) > _MAX_COMMITTED:
        raise InvalidInputError("is no chunk of actions", where=where, mend="send floats [J,A]")
    with np.errstate(over="ignore"):
        actions = value.astype(np.float32)
    if not np.isfinite(actions).all():
        raise InvalidInputError("holds NaN or infinity", where=where)
    return actions


def _map(given: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = given.get(name, {})
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise InvalidInputError("is not a map by camera", where=PREFIX + name)
    return value


def _depth(value: Any, camera: str) -> Float32[np.ndarray, "_h _w"]:
    where = f"{PREFIX}depth_m: {camera[:60]}"
    if not isinstance(value, np.ndarray) or value.ndim != 2 or value.dtype.kind != "f":
        raise InvalidInputError("is no depth map", where=where, mend="send floats [H,W] in metres")
    depth: np.ndarray = value.astype(np.float32)
    if (depth < 0).any() or np.isinf(depth).any():
        raise InvalidInputError("holds negative or infinite depth", where=where, mend="send NaN or 0 for unknown")
    depth[depth == 0] = np.nan
    return depth


def _pose(value: Any, camera: str) -> tuple[np.ndarray, np.ndarray]:
    found: list[np.ndarray] = []
    for name, side in (("K", 3), ("cam_from_world", 4)):
        matrix = value.get(name) if isinstance(value, dict) else None
        if not isinstance(matrix, np.ndarray) or matrix.shape != (side, side) or matrix.dtype.kind != "f":
            where = f"{PREFIX}cameras: {camera[:60]}: {name}"
            raise InvalidInputError("is missing or no matrix", where=where, mend=f"send floats [{side},{side}]")
        found.append(matrix.astype(np.float64))
    return found[0], found[1]
