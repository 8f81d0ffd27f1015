"""The tests of this room read the same made-up media as those of perception."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "perception"))
