"""AgiBot's episodes as the released pipeline finds them."""

import numpy as np
import pytest
from made_media import write_video

from traceworld.errors import DatasetError
from traceworld.traces.datasets.agibot import import_agibot
from traceworld.traces.media import read_frame
from traceworld.traces.store import open_dataset


def test_episodes_of_equal_number_are_kept_apart_and_a_bad_one_is_reported(tmp_path):
    for task in ("327", "352"):
        folder = tmp_path / "in" / task / "648642"
        folder.mkdir(parents=True)
        write_video(folder / "obs.mp4", [np.full((32, 48, 3), 40 * t, np.uint8) for t in range(5)])
        (folder / "task.txt").write_text(f"task {task}\n")
    (tmp_path / "in" / "352" / "9").mkdir()
    (tmp_path / "in" / "352" / "9" / "obs.mp4").write_bytes(b"no video")
    report = import_agibot([tmp_path / "in"], tmp_path / "out")
    assert (report.ok, report.failed) == (2, 1)
    assert "9/obs.mp4" in report.failures[0][1]
    dataset = open_dataset(tmp_path / "out")
    clip = dataset.clip("352__648642")
    assert (clip.task, clip.num_frames, clip.metric) == ("task 352", 5, False)
    assert clip.traces.num_keypoints == 0
    assert clip.time_s[1] == pytest.approx(1 / 30, rel=0.01)
    assert abs(int(read_frame(clip, 3).mean()) - 120) < 6
    assert import_agibot([tmp_path / "in"], tmp_path / "out").done == 3
    with pytest.raises(DatasetError, match=r"obs\.mp4"):
        import_agibot([tmp_path / "nothing"], tmp_path / "out2")
