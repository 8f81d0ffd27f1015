"""Asks policies (openpi's websocket protocol) and trace predictors (HTTP) that run elsewhere."""

from traceworld_client.chunks import ChunkPlayer
from traceworld_client.errors import (
    BusyError,
    ClientError,
    ConnectionLostError,
    InvalidRequestError,
    ServerError,
    ServerTimeoutError,
)
from traceworld_client.policy import PolicyClient
from traceworld_client.predict import PredictClient, TraceAnswer
from traceworld_client.real_time import RealTimePlayer

__all__ = [
    "BusyError",
    "ChunkPlayer",
    "ClientError",
    "ConnectionLostError",
    "InvalidRequestError",
    "PolicyClient",
    "PredictClient",
    "RealTimePlayer",
    "ServerError",
    "ServerTimeoutError",
    "TraceAnswer",
]

__version__ = "0.1.0"
