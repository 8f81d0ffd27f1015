"""Commands that exchange data with other formats: import, export."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from traceworld.commands.printing import emit


@dataclasses.dataclass(frozen=True)
class Import:
    """Read datasets of another format into a clip store: `traceworld import lerobot DIR… --out D`."""

    format: Positional[Literal["lerobot"]]
    """lerobot: LeRobot v2.0, v2.1 and v3.0; a clip per episode and camera."""
    folders: Positional[tuple[Path, ...]]
    """The datasets."""
    out: Path
    """Dataset folder to write or to go on with."""
    cameras: tuple[str, ...] = ()
    """Cameras by feature key or its last part; none: all."""
    depth: bool = True
    """Take depth maps along."""
    max_episodes: int | None = None
    """Read at most so many episodes of each dataset."""
    retry_failed: bool = False
    """Try again what failed in an earlier run."""
    json: bool = False
    """Print the report as JSON."""

    def run(self) -> int:
        from traceworld.traces.lerobot.to_clips import import_lerobot

        report = import_lerobot(
            self.folders,
            self.out,
            cameras=self.cameras or None,
            depth=self.depth,
            max_episodes=self.max_episodes,
            retry_failed=self.retry_failed,
        )
        said = f"{report.ok} clips read, {report.failed} failed, {report.done} were there → {self.out}"
        emit(dataclasses.asdict(report) if self.json else said, self.json)
        return 0 if report.ok or report.done else 1


@dataclasses.dataclass(frozen=True)
class Export:
    """Write a clip store in another format: `traceworld export lerobot D --out DIR`."""

    format: Positional[Literal["lerobot"]]
    """lerobot: LeRobot v3.0, traces as flat columns with masks, captions as language rows."""
    dataset: Positional[Path]
    """The clip store."""
    out: Path
    """New folder; the unfinished result of the same command is gone on with."""
    pictures: Literal["video", "png", "jpeg"] = "video"
    """mp4 files, or lossless or JPEG pictures inside the parquet files."""
    codec: Literal["h264", "av1"] = "h264"
    """Of videos."""
    camera: str = "camera"
    """Name of the camera: observation.images.NAME."""
    num_points: int | None = None
    """Points per frame; none: as many as the clip with the most. Two exports merge if it is equal."""
    image_size: tuple[int, int] | None = None
    """Width and height to resize pictures to; none: all must have one size."""
    fps: float | None = None
    """Frames per second; none: from the clips, which must agree."""
    language: bool = True
    """Write captions as language rows (LeRobot 0.6 and later)."""
    policy_data: bool = False
    """Also write points now as observation.state and one frame later as action, for stock policies."""
    json: bool = False
    """Print the report as JSON."""

    def run(self) -> int:
        from traceworld.traces.lerobot.from_clips import export_lerobot
        from traceworld.traces.store import open_dataset

        dataset = open_dataset(self.dataset)
        folder = export_lerobot(
            dataset,
            self.out,
            pictures=self.pictures,
            codec=self.codec,
            camera=self.camera,
            num_points=self.num_points,
            image_size=self.image_size,
            language=self.language,
            policy_data=self.policy_data,
            fps=self.fps,
        )
        said = {"episodes": len(dataset), "folder": str(folder)}
        emit(said if self.json else f"{len(dataset)} episodes → {folder}", self.json)
        return 0
