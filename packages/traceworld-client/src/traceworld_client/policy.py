"""A policy on a server: one question, one answer, never a stale one."""

from __future__ import annotations

import time
from typing import Any, Dict, Mapping, Optional

from websockets.exceptions import InvalidHandshake, InvalidStatus, WebSocketException
from websockets.sync.client import connect

from traceworld_client.codec import pack, unpack
from traceworld_client.errors import (
    BusyError,
    ClientError,
    ConnectionLostError,
    InvalidRequestError,
    ServerError,
    ServerTimeoutError,
    error_of,
)

PREFIX = "traceworld/"


class PolicyClient:
    """Talks to a policy server (traceworld's or openpi's). Not for several threads at once.

    Args:
        host: name or address, or a whole `ws://…` or `wss://…` address.
        port: left out if the address has it.
        api_key: sent as `Authorization: Api-Key …`.
        timeout_s: of one answer.
        connect_timeout_s: of reaching the server, first or again; it may start meanwhile.
        max_bytes: of one answer.

    Raises:
        ConnectionLostError: there is no server within `connect_timeout_s`.
        InvalidRequestError: the server refuses the key.
        BusyError: the server has no place for another connection.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: Optional[int] = 8000,
        api_key: Optional[str] = None,
        timeout_s: float = 10.0,
        connect_timeout_s: float = 30.0,
        max_bytes: int = 256 * 2**20,
    ):
        address = host if host.startswith(("ws://", "wss://")) else "ws://" + host
        whole = host.startswith(("ws://", "wss://")) and ":" in host.split("//", 1)[1]
        self._address = address if port is None or whole else f"{address}:{port}"
        self._headers = {"Authorization": "Api-Key " + api_key} if api_key else None
        self._timeout_s, self._connect_timeout_s, self._max_bytes = timeout_s, connect_timeout_s, max_bytes
        self._socket = None  # type: Any
        self._reset = None  # type: Optional[int]
        self.metadata = {}  # type: Dict[str, Any]
        self._connect()

    def infer(self, observation: Mapping[str, Any], retries: int = 0) -> Dict[str, Any]:
        """The answer to an observation: at least `actions` [K,A].

        Args:
            retries: how often to ask again after a lost connection or a full queue, within the same `timeout_s` each.

        Raises:
            InvalidRequestError: the observation is not what the server wants; says what is wrong.
            BusyError: too many requests wait there.
            ServerTimeoutError: no answer in time. The connection is dropped: a late answer is never taken for the next.
            ConnectionLostError: no server, or the connection broke.
            ServerError: the policy failed.
        """
        request = dict(observation)
        if self._reset is not None and PREFIX + "reset" in self.metadata.get("extensions", ()):
            request.setdefault(PREFIX + "reset", self._reset)
        try:
            message = pack(request)
        except (TypeError, ValueError, OverflowError) as error:
            raise InvalidRequestError(str(error)) from error
        for left in range(retries, -1, -1):
            try:
                answer = self._ask(message)
                break
            except (ConnectionLostError, BusyError):
                if not left:
                    raise
                time.sleep(0.05 * 2 ** (retries - left))
        self._reset = None
        return answer

    def reset(self, seed: int = 0) -> None:
        """A new episode: said with the next request, to servers that know episodes (openpi's do not)."""
        self._reset = seed

    def close(self) -> None:
        """Close the connection; the next `infer` opens another."""
        if self._socket is not None:
            socket, self._socket = self._socket, None
            socket.close()

    def __enter__(self) -> PolicyClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, message: bytes) -> Dict[str, Any]:
        if self._socket is None:
            self._connect()
        try:
            self._socket.send(message)
            answer = self._socket.recv(timeout=self._timeout_s)
        except TimeoutError:
            self._drop()
            raise ServerTimeoutError(f"no answer within {self._timeout_s:g} s") from None
        except (WebSocketException, OSError, EOFError) as error:
            self._drop()
            raise ConnectionLostError(f"the connection broke: {error}") from error
        if isinstance(answer, str):
            wrong = error_of(answer)
            if not isinstance(wrong, BusyError):  # the server closes after all others
                self._drop()
            raise wrong
        return self._read(answer)

    def _read(self, data: bytes) -> Dict[str, Any]:
        try:
            value = unpack(data)
        except (ValueError, TypeError, KeyError) as error:
            self._drop()
            raise ServerError(f"an answer that cannot be read: {error}") from error
        if not isinstance(value, dict):
            self._drop()
            raise ServerError("an answer that is no map")
        return value

    def _connect(self) -> None:
        end = time.monotonic() + self._connect_timeout_s
        pause = 0.05
        while True:
            try:
                self._open(max(0.1, end - time.monotonic()))
                return
            except ConnectionLostError:
                if time.monotonic() + pause > end:
                    raise
                time.sleep(pause)
                pause = min(1.0, 2 * pause)

    def _open(self, timeout_s: float) -> None:
        try:
            self._socket = connect(
                self._address,
                compression=None,
                max_size=self._max_bytes,
                additional_headers=self._headers,
                open_timeout=timeout_s,
                close_timeout=2.0,
            )
            first = self._socket.recv(timeout=timeout_s)
        except InvalidStatus as error:
            raise _refusal(error, self._address) from error
        except (OSError, TimeoutError, InvalidHandshake, WebSocketException, EOFError) as error:
            self._drop()
            raise ConnectionLostError(f"{self._address} cannot be reached: {error}") from error
        if isinstance(first, str):
            self._drop()
            raise error_of(first)
        self.metadata = self._read(first)

    def _drop(self) -> None:
        """Close without a farewell: nothing that is still under way is waited for."""
        if self._socket is not None:
            socket, self._socket = self._socket, None
            try:
                socket.close_socket()
            except (AttributeError, OSError, WebSocketException):
                socket.close()


def _refusal(error: InvalidStatus, address: str) -> ClientError:
    status = error.response.status_code
    body = error.response.body
    text = body.decode("utf-8", "replace").strip() if body else ""
    said = f"{address} answers {status}: {text}"
    if status == 503:
        return BusyError(said)
    return InvalidRequestError(said) if status in (401, 403) else ConnectionLostError(said)
