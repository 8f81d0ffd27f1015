"""Extracted tracks against the truth of a film made by hand: a square that slides over a wall."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from rich.console import Console

from traceworld.errors import DatasetError
from traceworld.evaluation.track_eval import evaluate_tracks, score_clip, tracks_table
from traceworld.geometry.cameras import project
from traceworld.sim.glue import traces_of
from traceworld.sim.truth import read_truth
from traceworld.traces.types import Cameras, Clip, Traces
from traceworld.traces.writer import DatasetWriter

T, W, H = 12, 80, 60
K = np.array([[60.0, 0, 39.5], [0, 60.0, 29.5], [0, 0, 1]])


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """A truth folder in its documented layout. Body 0 is the wall at 2 m, body 1 a square at 1 m that moves right."""
    folder = tmp_path_factory.mktemp("films") / "slide-0000"
    truth = folder.with_name("slide-0000.truth")
    for name in ("objects", "depth"):
        (truth / name).mkdir(parents=True)
    pose = np.repeat(np.eye(4)[None, None], T, 0).repeat(2, 1)
    pose[:, 1, 0, 3] = 0.03 * np.arange(T)
    x, y = np.meshgrid(np.arange(W), np.arange(H))
    for t in range(T):
        left = 20 + 60 * 0.03 * t
        square = (x >= left) & (x <= left + 14) & (y >= 20) & (y <= 34)
        cv2.imwrite(str(truth / "objects" / f"{t:04d}.png"), np.where(square, 2, 1).astype(np.uint16))
        cv2.imwrite(str(truth / "depth" / f"{t:04d}.png"), np.where(square, 10000, 20000).astype(np.uint16))
    np.savez(
        truth / "truth.npz",
        K=np.repeat(K[None], T, 0),
        cam_from_world=np.repeat(np.eye(4)[None], T, 0),
        body_pose=pose,
        object_body=np.array([0, 1]),
        body_part=np.array([-1, 0]),
        recording_from_sim=np.eye(4),
    )
    (truth / "truth.json").write_text(json.dumps({"format_version": 1, "depth_unit_m": 0.0001}))
    return folder


@pytest.fixture(scope="module")
def film(recording):
    return read_truth(recording)


@pytest.fixture(scope="module")
def exact(film):
    """The clip of a perfect extraction of points on the square and on the wall."""
    start = np.array([0, 0, 0, 5, 0, 3])
    uv = np.array([[25.0, 25], [30, 30], [22, 33], [40, 24], [60, 50], [10, 10]])
    traces = traces_of(film, start, uv)
    cameras = Cameras(film.cameras.K, film.cameras.cam_from_world, W, H)
    return Clip("slide", np.arange(T) / 30, cameras, traces)


def with_traces(clip, **changes):
    return replace(clip, traces=Traces(**{**vars(clip.traces), **changes}))


def test_a_perfect_clip_is_perfect(exact, film):
    found = score_clip(exact, film)
    for subset in ("all", "moving"):
        assert found[subset] == {"aj": 1.0, "apd3d": 1.0, "oa": 1.0}
    assert (found["points"], found["moving_points"], found["left_out"]) == (6, 4, 0)


def test_another_world_frame_and_another_resolution_change_nothing(exact, film):
    turn = np.eye(4)
    turn[:3, :3] = cv2.Rodrigues(np.array([0.3, -0.2, 0.5]))[0]
    turn[:3, 3] = [1, 2, 3]
    xyz = exact.traces.xyz_world @ turn[:3, :3].T + turn[:3, 3]
    cameras = Cameras(exact.cameras.K, exact.cameras.cam_from_world @ np.linalg.inv(turn), W, H)
    moved = replace(with_traces(exact, xyz_world=xyz.astype(np.float32)), cameras=cameras)
    assert score_clip(moved, film)["all"]["aj"] == 1.0
    half = exact.cameras.K.copy()
    half[:, :2] /= 2
    half[:, :2, 2] -= 0.25
    small = replace(exact, cameras=Cameras(half, exact.cameras.cam_from_world, W // 2, H // 2))
    assert score_clip(small, film)["all"]["aj"] == 1.0


def test_errors_are_noticed_where_they_are(exact, film):
    stuck = exact.traces.xyz_world.copy()
    stuck[:, 0] = stuck[:1, 0]  # a moving point that was taken for a still one
    found = score_clip(with_traces(exact, xyz_world=stuck), film)
    assert found["moving"]["aj"] < found["all"]["aj"] < 1
    assert found["all"]["oa"] == 1.0
    visible = exact.traces.visible.copy()
    visible[6:, 4] = False
    found = score_clip(with_traces(exact, visible=visible), film)
    assert found["all"]["oa"] == pytest.approx(1 - 6 / (6 * T))
    assert found["moving"]["oa"] == 1.0
    assert found["all"]["apd3d"] == 1.0


def test_scale_is_forgiven_only_where_it_is_unknown(exact, film):
    far = replace(with_traces(exact, xyz_world=2 * exact.traces.xyz_world))
    assert score_clip(far, film)["all"]["aj"] < 0.05
    assert score_clip(replace(far, metric=False), film)["all"]["aj"] > 0.99
    assert score_clip(far, film, "median")["all"]["aj"] > 0.99


def test_points_that_start_nowhere_are_counted_out(exact, film):
    valid, visible, xyz = (getattr(exact.traces, name).copy() for name in ("valid", "visible", "xyz_world"))
    valid[0, 0] = visible[0, 0] = False
    xyz[:, 1] += np.float32(50)  # outside the image
    found = score_clip(with_traces(exact, valid=valid, visible=visible, xyz_world=xyz), film)
    assert (found["points"], found["left_out"]) == (4, 2)


def test_every_second_frame_is_found_by_its_number(exact, film):
    frames = np.arange(0, T, 2)
    keep = exact.traces.query_frame % 2 == 0
    traces = exact.traces.select(keep)
    traces = replace(
        traces,
        xyz_world=traces.xyz_world[frames],
        visible=traces.visible[frames],
        valid=traces.valid[frames],
        query_frame=traces.query_frame // 2,
    )
    cameras = Cameras(exact.cameras.K[frames], exact.cameras.cam_from_world[frames], W, H)
    half = Clip("half", exact.time_s[frames], cameras, traces, provenance={"source_frames": frames.tolist()})
    assert score_clip(half, film)["all"]["aj"] == 1.0
    with pytest.raises(DatasetError, match="frames up to 22"):
        score_clip(replace(half, provenance={"source_frames": (2 * frames + 2).tolist()}), film)


def test_a_whole_store(recording, exact, tmp_path):
    writer = DatasetWriter(tmp_path / "clips", source="tests")
    writer.write_item("a", [replace(exact, provenance={"source": {"uri": str(recording)}})])
    writer.write_item("b", [replace(exact, clip_id="other", provenance={"source": "somewhere"})])
    writer.write_item("c", [], status="failed", stage="source", error="no video")
    writer.finalise()
    report = evaluate_tracks(tmp_path / "clips")
    assert [clip["clip_id"] for clip in report["clips"]] == ["slide"]
    assert report["without_truth"] == ["other"]
    assert report["failed"] == {"c": "no video"}
    assert report["mean"]["moving"]["aj"] == 1.0
    assert json.loads(json.dumps(report)) == report
    console = Console(record=True, width=160, quiet=True)
    console.print(tracks_table(report))
    assert evaluate_tracks(tmp_path / "clips", recording.parent)["points"] == 6
    with pytest.raises(DatasetError, match="truth"):
        evaluate_tracks(tmp_path / "clips", tmp_path)


def test_the_square_of_this_file_moves_as_stated(exact):
    px = project(exact.traces.xyz_world[:, 0].astype(float), K, np.eye(4))
    np.testing.assert_allclose(px[:, 0], 25 + 1.8 * np.arange(T), atol=1e-3)
