"""Worker processes of the simulator: one core each."""

from __future__ import annotations

import os

import cv2


def one_thread() -> None:
    """One worker is one core: no threads in linear algebra, OpenCV or the software renderer. Call before rendering."""
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", LP_NUM_THREADS="1")
    cv2.setNumThreads(0)
