"""Commands that exchange data with other formats and places: import, export, push, pull."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from traceworld.commands.printing import emit
from traceworld.errors import ConfigError

if TYPE_CHECKING:
    from traceworld.traces.exchange import ExchangeReport

_SAID = 10
"""Failures told one by one; --json tells all."""


def _refuse_foreign_options(command: Any, options: dict[str, tuple[str, ...]]) -> None:
    """An option that does not belong to the chosen format would do nothing: say so."""
    for field in dataclasses.fields(command):
        owners = [name for name, names in options.items() if field.name in names]
        if owners and command.format not in owners and getattr(command, field.name) != field.default:
            flag = "--" + field.name.replace("_", "-")
            raise ConfigError(f"does nothing with {command.format}", where=flag, mend=f"it is for {', '.join(owners)}")


def _emit_report(report: ExchangeReport, what: str, place: Path, json: bool) -> int:
    if json:
        emit(dataclasses.asdict(report), True)
    else:
        lines = [f"{report.ok} {what}, {report.failed} failed, {report.done} were there → {place}"]
        lines += [f"  {reason}" for _, reason in report.failures[:_SAID]]
        lines += [f"  … and {report.failed - _SAID} more (use --json)"] * (report.failed > _SAID)
        emit("\n".join(lines), False)
    return 0 if report.ok or report.done else 1


@dataclasses.dataclass(frozen=True)
class Import:
    """Read datasets of another format into a clip store: `traceworld import lerobot DIR… --out D`."""

    format: Positional[Literal["lerobot", "traceextract", "traceforge", "egodex", "egoverse", "droid", "agibot"]]
    """lerobot: LeRobot v2.0, v2.1 and v3.0; a clip per episode and camera. traceextract, traceforge: episodes of the released
    pipelines. egodex: recordings with calibrated cameras and hand skeleton. egoverse: Zarr
    episodes with head poses and hand joints. droid: RLDS in TFRecord files. agibot:
    <task>/<episode>/obs.mp4 and task.txt."""
    folders: Positional[tuple[Path, ...]]
    """The datasets, or episodes."""
    out: Path
    """Dataset folder to write or to go on with."""
    cameras: tuple[str, ...] = ()
    """lerobot: cameras by feature key or its last part; none: all. droid: e.g. wrist_image_left; none: exterior_image_1_left."""
    depth: bool = True
    """lerobot: take depth maps along."""
    fps: float | None = None
    """traceextract, traceforge: frames per second, which these formats do not keep. None: what meta.json tells, else 10."""
    metric: bool | None = None
    """traceextract (yes by default), traceforge (no): take depth as metres."""
    keep_originals: bool = True
    """traceextract: keep the sample arrays, so that an unchanged clip is exported bit for bit as it came."""
    max_episodes: int | None = None
    """Read at most so many episodes of each dataset."""
    retry_failed: bool = False
    """Try again what failed in an earlier run."""
    json: bool = False
    """Print the report as JSON."""

    def run(self) -> int:
        _refuse_foreign_options(
            self,
            {
                "lerobot": ("cameras", "depth"),
                "droid": ("cameras",),
                "traceextract": ("fps", "metric", "keep_originals"),
                "traceforge": ("fps", "metric"),
            },
        )
        if self.format == "lerobot":
            return self._lerobot()
        common: dict[str, Any] = {"max_episodes": self.max_episodes, "retry_failed": self.retry_failed}
        return _emit_report(self._episodes(common), "clips read", self.out, self.json)

    def _episodes(self, common: dict[str, Any]) -> ExchangeReport:
        if self.format == "traceextract":
            from traceworld.traces.traceextract.to_clips import import_traceextract

            metric = True if self.metric is None else self.metric
            common |= {"fps": self.fps, "metric": metric, "keep_originals": self.keep_originals}
            return import_traceextract(self.folders, self.out, **common)
        if self.format == "traceforge":
            from traceworld.traces.traceforge.to_clips import import_traceforge

            common |= {"fps": self.fps if self.fps is not None else 10.0, "metric": bool(self.metric)}
            return import_traceforge(self.folders, self.out, **common)
        if self.format == "egodex":
            from traceworld.traces.datasets.egodex import import_egodex

            return import_egodex(self.folders, self.out, **common)
        if self.format == "egoverse":
            from traceworld.traces.datasets.egoverse import import_egoverse

            return import_egoverse(self.folders, self.out, **common)
        if self.format == "droid":
            from traceworld.traces.datasets.droid import import_droid

            return import_droid(self.folders, self.out, cameras=self.cameras or None, **common)
        from traceworld.traces.datasets.agibot import import_agibot

        return import_agibot(self.folders, self.out, **common)

    def _lerobot(self) -> int:
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

    format: Positional[Literal["lerobot", "traceextract", "traceforge"]]
    """lerobot: LeRobot v3.0, traces as flat columns with masks, captions as language rows. traceextract, traceforge: episode
    folders that the released trainers read."""
    dataset: Positional[Path]
    """The clip store."""
    out: Path
    """New folder; the unfinished result of the same command is gone on with."""
    pictures: Literal["video", "png", "jpeg"] = "video"
    """lerobot: mp4 files, or lossless or JPEG pictures inside the parquet files."""
    codec: Literal["h264", "av1"] = "h264"
    """lerobot: of videos."""
    camera: str = "camera"
    """lerobot: name of the camera: observation.images.NAME."""
    num_points: int | None = None
    """lerobot: points per frame; none: as many as the clip with the most. Two exports merge if it is equal."""
    image_size: tuple[int, int] | None = None
    """lerobot: width and height to resize pictures to; none: all must have one size."""
    fps: float | None = None
    """lerobot: frames per second; none: from the clips, which must agree."""
    language: bool = True
    """lerobot: write captions as language rows (LeRobot 0.6 and later)."""
    policy_data: bool = False
    """lerobot: also write points now as observation.state and one frame later as action, for stock policies."""
    every: int = 5
    """traceforge: a query frame every so many frames."""
    json: bool = False
    """Print the report as JSON."""

    def run(self) -> int:
        # Importing it makes RGB-D folders readable with their depth registered to the colour camera (perception.clip_media).
        import traceworld.perception.sources  # noqa: F401
        from traceworld.traces.store import open_dataset

        lerobot = (
            "pictures", "codec", "camera", "num_points", "image_size", "fps", "language", "policy_data"
        )  # fmt: skip
        _refuse_foreign_options(self, {"lerobot": lerobot, "traceforge": ("every",)})
        dataset = open_dataset(self.dataset)
        if self.format == "traceextract":
            from traceworld.traces.traceextract.from_clips import export_traceextract

            return _emit_report(export_traceextract(dataset, self.out), "episodes written", self.out, self.json)
        if self.format == "traceforge":
            from traceworld.traces.traceforge.from_clips import export_traceforge

            report = export_traceforge(dataset, self.out, every=self.every)
            return _emit_report(report, "episodes written", self.out, self.json)
        from traceworld.traces.lerobot.from_clips import export_lerobot

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


@dataclasses.dataclass(frozen=True)
class Push:
    """Send a finished dataset folder to the Hugging Face hub: `traceworld push D NAME/REPO`. Needs huggingface_hub."""

    dataset: Positional[Path]
    """The clip store."""
    repo: Positional[str]
    """Dataset repository, user or organisation first; made if it is not there."""
    public: bool = False
    """Let everyone see a repository that is made now."""
    revision: str | None = None
    """Branch; none: main."""
    missing_media: bool = False
    """Send clips whose pictures lie outside the folder without their pictures."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> int:
        from traceworld.traces.hub import push_dataset

        where = push_dataset(
            self.dataset,
            self.repo,
            private=not self.public,
            revision=self.revision,
            missing_media=self.missing_media,
        )
        emit({"commit": where} if self.json else f"{self.dataset} → {where}", self.json)
        return 0


@dataclasses.dataclass(frozen=True)
class Pull:
    """Fetch a dataset folder from the Hugging Face hub: `traceworld pull NAME/REPO --out D`. Needs huggingface_hub."""

    repo: Positional[str]
    """Dataset repository, user or organisation first."""
    out: Path
    """New folder, or one that the same command began."""
    revision: str | None = None
    """Branch, tag or commit; none: the newest."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> int:
        from traceworld.traces.hub import pull_dataset

        dataset = pull_dataset(self.repo, self.out, revision=self.revision)
        said = {"clips": len(dataset), "folder": str(self.out)}
        emit(said if self.json else f"{len(dataset)} clips → {self.out}", self.json)
        return 0
