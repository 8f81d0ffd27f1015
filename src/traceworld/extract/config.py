"""All options of trace extraction in one frozen, hashable place."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from traceworld.errors import ConfigError
from traceworld.perception.intrinsics import ASSUMED_FOV_DEG
from traceworld.perception.odometry import OdometryConfig
from traceworld.perception.source_base import SourceOptions
from traceworld.perception.tracking import TrackingConfig

CUT_OPTIONS = ("min_event_s", "max_event_s", "smooth_s", "peak_prominence")
"""Options that say where tracked clips are cut into events."""
CAPTION_OPTIONS = ("captions", "merge_window", "merge_stride")
"""Options that say who finds words for the events, and for how many at once."""
_LATER = {
    "features": "embedded",
    "geometry": "embedded",
    "tracker": "embedded",
    "entities": "embedded",
    "grid": 0,
    "merge_stride": 1,
}
"""Options that came later, and the value under which nothing is different from before."""


@dataclass(frozen=True)
class ExtractConfig:
    """How clips are turned into traces. Lengths in pixels are stated at 640 px image width and scale with it.

    Attributes:
        num_keypoints: points followed per clip (budget, shared out over entities; mu0-paper A.1).
        grid: follow a regular grid of so many points a side instead (TraceForge: 20); `num_keypoints` is then its square.
        chunk_frames: frames per chunk: new entities get points at each chunk's activity peak (A.4).
        tau_moving_px: trace diameter above which a point counts as moving (A.2).
        lambda_z: weight of depth in trace diameter and acceleration (A.2).
        features, geometry, tracker, entities, captions: backends as `NAME[:WEIGHTS][#option=value&…]` (`traceworld doctor`
            lists them; `perception.catalogue.PRESETS` are sets of them).
        accept_licence: licence classes (`non-commercial`, `gated`) that this run may use. Changes no result.
        max_side: longer image side is scaled down to this.
        fps: keep at most this many frames per second; None: all.
        max_frames: stop after this many frames; None: no limit.
        allow_partial: use the frames before the damage in a damaged file.
        frame_rate: frames per second of folders without time stamps.
        fov_deg: field of view across the longer image side, where intrinsics are unknown.
        registration: `auto` checks whether depth is aligned with colour and aligns it; `trust` believes the folder.
        min_event_s, max_event_s: duration limits of an event, seconds (A.5).
        smooth_s: Savitzky-Golay window on the acceleration signal, seconds.
        peak_prominence: share of the signal's range by which a peak must stand out to be an action.
        merge_window: adjacent events that one summary caption covers (§2.3).
        merge_stride: events from one summary to the next: 1 slides the window, `merge_window` lays them end to end.
        seed: of everything random.
        tracking, odometry: settings of the embedded tracker and of the camera odometry.
    """

    num_keypoints: int = 256
    grid: int = 0
    chunk_frames: int = 64
    tau_moving_px: float = 40.0
    lambda_z: float = 0.1
    features: str = "embedded"
    geometry: str = "embedded"
    tracker: str = "embedded"
    entities: str = "embedded"
    captions: str = "template"
    accept_licence: tuple[str, ...] = ()
    max_side: int = 960
    fps: float | None = None
    max_frames: int | None = None
    allow_partial: bool = False
    frame_rate: float = 30.0
    fov_deg: float = ASSUMED_FOV_DEG
    registration: Literal["auto", "trust"] = "auto"
    min_event_s: float = 1.0
    max_event_s: float = 20.0
    smooth_s: float = 0.75
    peak_prominence: float = 0.25
    merge_window: int = 3
    merge_stride: int = 1
    seed: int = 0
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    odometry: OdometryConfig = field(default_factory=OdometryConfig)

    def __post_init__(self):
        for name, low in (("num_keypoints", 1), ("chunk_frames", 2), ("merge_window", 2), ("seed", 0)):
            if getattr(self, name) < low:
                raise ConfigError(f"must be at least {low}", where=name)
        for name in ("tau_moving_px", "min_event_s", "smooth_s"):
            if not getattr(self, name) > 0:
                raise ConfigError("must be positive", where=name)
        if not self.lambda_z >= 0:
            raise ConfigError("must not be negative", where="lambda_z")
        if not self.max_event_s >= 2 * self.min_event_s:
            raise ConfigError(
                f"{self.max_event_s} s is less than twice min_event_s",
                where="max_event_s",
                mend="raise it, or lower the other",
            )
        if not 0 < self.peak_prominence <= 1:
            raise ConfigError("must be in (0, 1]", where="peak_prominence")
        if not 1 <= self.merge_stride <= self.merge_window:
            raise ConfigError(
                f"{self.merge_stride} leaves events out", where="merge_stride", mend="from 1 to merge_window"
            )
        if self.grid and (self.grid < 2 or self.num_keypoints != self.grid**2):
            raise ConfigError(
                f"{self.grid} points a side and num_keypoints {self.num_keypoints} contradict each other",
                where="grid",
                mend="at least 2, and num_keypoints its square",
            )
        self.source_options()  # checks the rest

    def source_options(self) -> SourceOptions:
        """The part that says how the source is read."""
        names = {field.name for field in dataclasses.fields(SourceOptions)}
        return SourceOptions(**{name: getattr(self, name) for name in names})

    def backends(self) -> dict[str, str]:
        """Kind → backend, as `perception.registry` names the kinds."""
        return {
            "features": self.features,
            "geometry": self.geometry,
            "tracking": self.tracker,
            "entities": self.entities,
            "captions": self.captions,
        }

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form of what decides the result. Later options are left out while they change nothing: datasets that
        were made before there were any keep their hash, and are continued."""
        told = dataclasses.asdict(self)
        for name, value in _LATER.items():
            if told[name] == value:
                del told[name]
        del told["accept_licence"]
        return told

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> ExtractConfig:
        """The config that `as_dict` told.

        Raises:
            ConfigError: it names an option that this traceworld does not have, or an impossible value.
        """
        unknown = sorted(set(told) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise ConfigError(
                f"unknown option '{unknown[0]}'",
                where="config",
                mend="use the traceworld that wrote it, or a newer one",
            )
        values: dict[str, Any] = dict(told)
        try:
            for name, kind in (("tracking", TrackingConfig), ("odometry", OdometryConfig)):
                if name in values:
                    values[name] = kind(**values[name])
            return cls(**values)
        except TypeError as error:
            raise ConfigError(
                f"cannot be read: {error}", where="config", mend="use the traceworld that wrote it"
            ) from error

    def tracking_options(self) -> dict[str, Any]:
        """The part of `as_dict` that the traces follow from: what is cut and said afterwards is left out."""
        return {name: value for name, value in self.as_dict().items() if name not in (*CUT_OPTIONS, *CAPTION_OPTIONS)}

    @property
    def hash(self) -> str:
        """16 hexadecimal digits that change with any option that decides the result."""
        text = json.dumps(self.as_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
