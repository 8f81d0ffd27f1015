"""A policy on an openpi server, as any other policy: `traceworld rollout --policy openpi:ws://HOST:8000` scores it in simulation.

`openpi:ADDRESS` or `openpi:ADDRESS#LAYOUT`. Our own servers say how they want observations; openpi's do not, so that their layout
(`adapters.py`) is named: `openpi:ws://gpu:8000#libero`. A key is taken from the variable TRACEWORLD_API_KEY. It is asked through
`packages/traceworld-client`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32

from traceworld.errors import ConfigError, InvalidInputError, TraceworldError
from traceworld.extras import require
from traceworld.serving.adapters import ADAPTERS, LEROBOT, Adapter, adapter_named, lerobot_adapter
from traceworld.serving.extensions import PREFIX
from traceworld.serving.keys import find_key
from traceworld.serving.refusals import BusyError, PolicyError, TooSlowError
from traceworld.traces.robot import ActionChunk, RobotObservation

BUSY_PAUSES_S = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Before the same question again, where the server's queue was full. After a lost connection nothing is asked again: what the server
knew of the episode, its seed at least, is gone, and the episode would go on as another. A rollout begins it anew when it is resumed."""


class RemotePolicy:
    """Asks a policy server once per chunk.

    Args:
        address: `ws://HOST:PORT`, or `HOST:PORT`. layout: of the requests; None: as the server says.
        timeout_s: of one answer. connect_timeout_s: of reaching the server.

    Raises:
        MissingExtraError: the client's package is not installed.
        PolicyError: no server answers there. ConfigError: it does not say its layout, and none is given.
    """

    def __init__(
        self,
        address: str,
        layout: str | None = None,
        timeout_s: float | int = 60.0,
        connect_timeout_s: float | int = 30.0,
    ):
        self._package = require("traceworld_client")
        self._address = address
        try:
            self._client = self._package.PolicyClient(
                address, None, find_key(None), timeout_s=float(timeout_s), connect_timeout_s=float(connect_timeout_s)
            )
        except self._package.ClientError as error:
            raise self._meant(error) from error
        said = self._client.metadata
        self._extensions = set(said.get("extensions", ()))
        self._adapter = adapter_of(said, layout, address)
        self.name = f"{said.get('policy', 'openpi')} at {address}"
        if self._adapter.name == LEROBOT:
            self.cameras = tuple(picture.camera for picture in self._adapter.pictures)

    def reset(self, seed: int = 0) -> None:
        """A new episode: said with the next question, to servers that know episodes."""
        self._client.reset(seed)

    def act(self, observation: RobotObservation) -> ActionChunk:
        """
        Raises:
            InvalidInputError: the observation lacks what the server wants. PolicyError, BusyError, TooSlowError: no answer.
        """
        return self._ask(observation, {})

    def act_after(self, observation: RobotObservation, committed: Float32[np.ndarray, "J A"]) -> ActionChunk:
        """As `act`; servers that know what that means are told what will be played meanwhile."""
        return self._ask(observation, {"committed": committed} if len(committed) else {})

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _ask(self, observation: RobotObservation, more: Mapping[str, Any]) -> ActionChunk:
        request = self._adapter.ask(observation)
        extras = {"step": observation.step, **self._geometry(observation), **more}
        request |= {PREFIX + name: value for name, value in extras.items() if PREFIX + name in self._extensions}
        answer = self._answer(request)
        actions = self._actions(answer.get("actions"))
        said = answer.get("server_timing")
        took = said.items() if isinstance(said, dict) else ()
        timing = {name.removesuffix("_ms"): 1e-3 * ms for name, ms in took if isinstance(ms, int | float)}
        return ActionChunk(actions, timing=timing, done=bool(answer.get(f"{PREFIX}done", False)))

    def _answer(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        for pause_s in (*BUSY_PAUSES_S, None):
            try:
                return self._client.infer(request)
            except self._package.ClientError as error:
                if pause_s is None or not isinstance(error, self._package.BusyError):
                    raise self._meant(error) from error
                time.sleep(pause_s)
        raise AssertionError("the last pause is None")

    def _actions(self, given: Any) -> Float32[np.ndarray, "K A"]:
        try:
            actions = np.array(given, np.float32)
        except (TypeError, ValueError):
            actions = np.zeros(0, np.float32)
        if actions.ndim != 2 or not len(actions) or not np.isfinite(actions).all():
            raise PolicyError("answers no chunk of actions", where=self._address)
        return actions

    def _geometry(self, observation: RobotObservation) -> dict[str, Any]:
        """Depth and poses, of the cameras that are sent, by the names that they have there."""
        sent = self._adapter.cameras_of(observation)
        depth = {name: observation.depth_m[here] for name, here in sent.items() if here in observation.depth_m}
        posed = {name: observation.cameras[here] for name, here in sent.items() if here in observation.cameras}
        cameras = {name: {"K": found.K, "cam_from_world": found.cam_from_world} for name, found in posed.items()}
        return {name: value for name, value in (("depth_m", depth), ("cameras", cameras)) if value}

    def _meant(self, error: Exception) -> TraceworldError:
        """What the client says, as an error of ours."""
        package = self._package
        kinds: tuple[tuple[type[Exception], type[TraceworldError], str | None], ...] = (
            (package.InvalidRequestError, InvalidInputError, None),
            (package.BusyError, BusyError, "close other connections, or let it serve more"),
            (package.ServerTimeoutError, TooSlowError, None),
            (package.ConnectionLostError, PolicyError, "start the server; the same command goes on"),
        )
        for theirs, ours, mend in kinds:
            if isinstance(error, theirs):
                return ours(str(error), where=self._address, mend=mend)
        return PolicyError(str(error), where=self._address)


def adapter_of(metadata: Mapping[str, Any], layout: str | None, address: str) -> Adapter:
    """The layout that a server's metadata speak of, or the one that is given.

    Raises:
        ConfigError: neither says it.
    """
    named = layout or metadata.get("adapter")
    if named is None:
        raise ConfigError(
            "the server does not say how it wants observations",
            where=address,
            mend=f"name its layout, e.g. openpi:{address}#libero; there are {', '.join(ADAPTERS)}",
        )
    if named != LEROBOT:
        return adapter_named(named)
    try:
        (state_dim,) = metadata["state"].values()
        cameras = [key.removeprefix("observation.images.") for key in metadata["images"]]
        return lerobot_adapter(cameras, int(state_dim), int(metadata["action_dim"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"its metadata are no '{LEROBOT}' layout: {error!r}", where=address) from error


def load_remote(text: str = "") -> RemotePolicy:
    """`ADDRESS` or `ADDRESS#LAYOUT`, as after `openpi:`.

    Raises:
        ConfigError: no address.
    """
    address, _, layout = text.partition("#")
    if not address:
        raise ConfigError("has no address", where="openpi", mend="write openpi:ws://HOST:PORT, or with #LAYOUT")
    return RemotePolicy(address, layout or None)
