from dataclasses import replace

import numpy as np
import pytest
from trace_clips import HEIGHT, WIDTH, K, make_clip, swaying_poses

from traceworld.errors import InvalidInputError
from traceworld.traces.types import Camera, Cameras, Clip, Event, Media, Observation, TracePrediction, Traces

IMAGE = np.zeros((4, 6, 3), np.uint8)


@pytest.mark.parametrize(
    ("pose", "message"),
    [
        (np.diag([2.0, 2, 2, 1]), "not rigid"),
        (np.diag([1.0, 1, -1, 1]), "reflection"),
        (np.full((4, 4), np.nan), "NaN"),
    ],
)
def test_impossible_poses(pose, message):
    with pytest.raises(InvalidInputError, match=message):
        Camera(K, pose, WIDTH, HEIGHT)
    with pytest.raises(InvalidInputError, match=message):
        Cameras(np.stack([K, K]), np.stack([np.eye(4), pose]), WIDTH, HEIGHT)


def test_impossible_intrinsics_and_sizes():
    with pytest.raises(InvalidInputError, match="focal"):
        Camera(-K, np.eye(4), WIDTH, HEIGHT)
    with pytest.raises(InvalidInputError, match="empty"):
        Camera(K, np.eye(4), 0, HEIGHT)


def test_cameras_index_and_know_whether_they_move():
    still = Cameras.still(K, WIDTH, HEIGHT, 5)
    assert len(still) == 5
    assert still.static
    assert not make_clip(poses=swaying_poses(60)).cameras.static
    np.testing.assert_array_equal(still[3].K, K)
    assert (still[3].width, still[3].height) == (WIDTH, HEIGHT)


def test_invalid_traces_are_refused():
    traces = make_clip().traces
    xyz = traces.xyz_world.copy()
    xyz[3, 2, 1] = np.nan
    with pytest.raises(InvalidInputError, match=r"xyz_world\[3,2\].*NaN"):
        replace(traces, xyz_world=xyz)
    with pytest.raises(InvalidInputError, match="visible point must be valid"):
        replace(traces, valid=np.zeros_like(traces.valid))
    with pytest.raises(InvalidInputError, match="query_frame"):
        replace(traces, query_frame=np.full(12, 60, np.int32))


def test_select_takes_masks_and_orders():
    traces = make_clip().traces
    assert traces.select(traces.moving).moving.all()
    np.testing.assert_array_equal(traces.select(np.array([4, 2])).xyz_world, traces.xyz_world[:, [4, 2]])
    assert Traces.empty(7).num_keypoints == 0
    assert Traces.empty(7).num_frames == 7


def test_clips_check_their_parts():
    clip = make_clip(T=10)
    with pytest.raises(InvalidInputError, match="increase"):
        replace(clip, time_s=clip.time_s[::-1].copy())
    with pytest.raises(InvalidInputError, match="clip_id"):
        replace(clip, clip_id="")
    with pytest.raises(InvalidInputError, match="event ends"):
        replace(clip, events=(Event(5, 11, "x"),))
    with pytest.raises(InvalidInputError, match="cameras for 10"):
        replace(clip, cameras=Cameras.still(K, WIDTH, HEIGHT, 9))
    with pytest.raises(InvalidInputError, match="traces of 9"):
        Clip("x", clip.time_s, clip.cameras, Traces.empty(9))
    with pytest.raises(InvalidInputError, match="span"):
        Event(3, 3, "x")
    with pytest.raises(InvalidInputError, match="frame_index"):
        Media("frames", "x", (0, 1), ("a.jpg",))


def test_observations_check_their_parts():
    keypoints = np.zeros((2, 2), np.float32)
    Observation(IMAGE, "push", keypoints_uv=keypoints, depth_m=np.ones((4, 6), np.float32))
    with pytest.raises(InvalidInputError, match="instruction"):
        Observation(IMAGE, " ")
    with pytest.raises(InvalidInputError, match="no keypoints"):
        Observation(IMAGE, "push", keypoints_uv=keypoints[:0])
    with pytest.raises(InvalidInputError, match="NaN"):
        Observation(IMAGE, "push", keypoints_uv=np.full((2, 2), np.nan))
    with pytest.raises(InvalidInputError, match="step"):
        Observation(IMAGE, "push", step=0.0)


def test_predictions_are_finite():
    uvz = np.zeros((2, 3, 4, 3), np.float32)
    valid = np.ones((2, 3, 4), bool)
    TracePrediction(uvz, valid)
    with pytest.raises(InvalidInputError, match="NaN"):
        TracePrediction(uvz + np.float32(np.nan), valid)
