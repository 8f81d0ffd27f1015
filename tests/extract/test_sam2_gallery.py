"""Real clips through the real command: events and two levels of captions by a server, and other captions afterwards.

Both films are plain colour video, so nothing is known in metres: the embedded senses follow points in the picture, at a
depth of one, in front of a camera that rests or whose motion is not solved (`provenance["quality"]["camera"]`).
"""

import itertools
import json

import numpy as np
import pytest
from made_media import SHARED, needs_shared
from scripted_chat import prompt_of, says, serving

from traceworld.cli import main
from traceworld.extract import pipeline
from traceworld.traces.store import open_dataset

GALLERY = SHARED / "sam2_gallery"
pytestmark = [pytest.mark.shared_data, needs_shared(GALLERY)]

FRAMES = 150
SMALL = ["--max-side", "320", "--max-frames", str(FRAMES), "--num-keypoints", "64"]
CUTS = ["--min-event-s", "0.5", "--max-event-s", "1.5", "--peak-prominence", "0.1"]


class Narrator:
    """Says something else each time, for an event from its pictures and for a run of events from their words alone."""

    def __init__(self, voice: str):
        self.voice, self.said = voice, []

    def __call__(self, body) -> str:
        merging = isinstance(body["messages"][0]["content"], str)
        words = f"{self.voice}, {'steps together' if merging else 'step'} {len(self.said)}"
        if not merging:
            kinds = [part["type"] for part in body["messages"][0]["content"]]
            assert kinds == ["text", "image_url", "image_url", "image_url"]
        self.said.append(words)
        answer = {"before": f"before {words}", "interaction": words, "change": f"after {words}", "caption": words}
        if "instruction_1" in prompt_of(body):
            answer |= {f"instruction_{n}": f"{words}, way {n}" for n in (1, 2, 3)}
        return json.dumps(answer)


def spans(clip, level):
    return [(event.start, event.end) for event in clip.events if event.level == level]


def tile(ranges, frames) -> bool:
    whole = ranges[0][0] == 0 and ranges[-1][1] == frames
    return whole and all(a[1] == b[0] and a[0] < a[1] for a, b in itertools.pairwise(ranges))


@pytest.mark.parametrize("name", ["02_cups", "04_coffee"])
def test_events_and_two_levels_of_captions_tile_the_clip(name, tmp_path, monkeypatch, capsys):
    out, first, second = tmp_path / "out", Narrator("first voice"), Narrator("second voice")
    with serving(says(first)) as (url, script):
        captions = ["--captions", f"openai:m@{url}/v1#cache=off"]
        runs = ["--merge-window", "2", "--merge-stride", "2"]
        film = str(GALLERY / f"{name}.mp4")
        assert main(["extract", film, "--out", str(out), *SMALL, *CUTS, *runs, *captions, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["ok"], report["failed"]) == (1, 0)
    (clip,) = open_dataset(out)
    assert clip.num_frames == FRAMES
    assert not clip.metric
    assert clip.provenance["source"]["intrinsics"] == "assumed"
    assert clip.provenance["quality"]["camera"] in ("still", "moving, not solved (no depth)")
    assert clip.traces.moving.any()
    assert {kind: about["name"] for kind, about in clip.provenance["backends"].items()} == {
        "features": "embedded", "tracker": "embedded", "geometry": "embedded", "captions": "openai:m",
    }  # fmt: skip

    fine, coarse = spans(clip, 0), spans(clip, 1)
    assert len(fine) > 2
    assert 1 < len(coarse) < len(fine)
    assert tile(fine, FRAMES)
    assert tile(coarse, FRAMES)
    edges = {edge for span in fine for edge in span}
    assert all(start in edges and end in edges for start, end in coarse)
    assert spans(clip, 2) == [(0, FRAMES)]
    assert len(script.requests) == len(first.said)
    assert {event.caption for event in clip.events} == set(first.said)
    assert clip.provenance["captions"]["fallbacks"] == 0
    together = [event for event in clip.events if "together" in event.caption]
    assert {event.level for event in together} <= {1, 2}

    def forbidden(*_):
        raise AssertionError("tracked again")

    monkeypatch.setattr(pipeline, "build_traces_with", forbidden)
    with serving(says(second)) as (url, _):
        captions = ["--captions", f"openai:m@{url}/v1#cache=off", "--style", "traceforge", "--merge-stride", "1"]
        assert main(["recaption", str(out), *captions, "--json"]) == 0
    (again,) = open_dataset(out)
    for part in ("xyz_world", "visible", "valid", "part_id", "moving", "query_frame"):
        old, new = getattr(clip.traces, part), getattr(again.traces, part)
        assert np.array_equal(old, new, equal_nan=old.dtype.kind == "f")
    assert {event.caption for event in again.events} == set(second.said)
    assert spans(again, 0) == fine
    sliding = spans(again, 1)
    assert sliding == [(a[0], b[1]) for a, b in itertools.pairwise(fine)]
    assert all("instructions" in entry for entry in again.provenance["captions"]["answers"])
