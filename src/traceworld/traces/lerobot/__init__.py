"""LeRobot datasets (formats v2.0, v2.1 and v3.0) read, written, imported and exported, without LeRobot itself."""

from traceworld.traces.lerobot.from_clips import export_lerobot
from traceworld.traces.lerobot.from_demonstrations import write_lerobot
from traceworld.traces.lerobot.reader import LeRobotDemonstrations
from traceworld.traces.lerobot.to_clips import ImportReport, import_lerobot

__all__ = ["ImportReport", "LeRobotDemonstrations", "export_lerobot", "import_lerobot", "write_lerobot"]
