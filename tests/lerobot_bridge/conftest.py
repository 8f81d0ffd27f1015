"""Tests with LeRobot itself (Python 3.12, `make test-lerobot`); without it they are skipped."""

import os
import sys
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", WANDB_MODE="disabled", TOKENIZERS_PARALLELISM="false")

HERE = Path(__file__).parent
for folder in (HERE, HERE.parent / "traces"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

try:
    import lerobot  # noqa: F401
except ImportError:
    collect_ignore_glob = ["test_*.py"]
