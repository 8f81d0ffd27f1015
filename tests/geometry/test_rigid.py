"""Alignment against independent solvers: eq. 1 against a numerical minimiser, point fits against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from traceworld.errors import InvalidInputError
from traceworld.geometry import cameras, rigid


def pose(rotvec, t) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = Rotation.from_rotvec(rotvec).as_matrix(), t
    return T


def random_poses(rng, count: int, noise: float = 1.0) -> np.ndarray:
    return np.stack([pose(noise * rng.normal(size=3), noise * rng.normal(size=3)) for _ in range(count)])


def eq1(A, chunk, ref) -> float:
    return float(sum(np.linalg.norm((A @ e - f)[:3]) ** 2 for e, f in zip(chunk, ref, strict=True)))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6))
def test_align_se3_is_the_minimiser_of_eq1(seed, anchors):
    rng = np.random.default_rng(seed)
    chunk = random_poses(rng, anchors)
    truth = pose(rng.normal(size=3), rng.normal(size=3))
    ref = truth @ chunk @ random_poses(rng, anchors, 0.2)  # far from an exact fit
    A = rigid.align_se3(chunk, ref)
    np.testing.assert_allclose(A[:3, :3] @ A[:3, :3].T, np.eye(3), atol=1e-10)
    assert np.linalg.det(A[:3, :3]) > 0
    start = np.r_[Rotation.from_matrix(truth[:3, :3]).as_rotvec(), truth[:3, 3]]
    found = minimize(lambda x: eq1(pose(x[:3], x[3:]), chunk, ref), start, method="BFGS").fun
    assert eq1(A, chunk, ref) <= found * (1 + 1e-6) + 1e-9
    np.testing.assert_allclose((rigid.alignment_residuals(A, chunk, ref) ** 2).sum(), eq1(A, chunk, ref))


def test_align_se3_recovers_the_world_change_of_stored_cameras():
    rng = np.random.default_rng(0)
    A = pose(rng.normal(size=3), rng.normal(size=3))
    chunk = random_poses(rng, 4)
    stored_chunk, stored_ref = cameras.invert_rigid(chunk), cameras.invert_rigid(A @ chunk)
    found = rigid.align_se3(cameras.invert_rigid(stored_chunk), cameras.invert_rigid(stored_ref))
    np.testing.assert_allclose(found, A, atol=1e-9)
    point = rng.normal(size=(5, 3))  # a point keeps its camera coordinates when world and poses move together
    np.testing.assert_allclose(
        cameras.transform(stored_ref[2], cameras.transform(found, point)), cameras.transform(stored_chunk[2], point)
    )


def test_outliers_are_left_out_even_pure_rotations():
    rng = np.random.default_rng(1)
    A = pose(rng.normal(size=3), rng.normal(size=3))
    chunk = random_poses(rng, 9)
    ref = A @ chunk @ random_poses(rng, 9, 1e-3)
    ref[3] = ref[3] @ pose([0, 0.7, 0], [0, 0, 0])
    ref[6, :3, 3] += 0.5
    plain, robust = rigid.align_se3(chunk, ref), rigid.align_se3(chunk, ref, outlier_factor=3.0)
    assert np.abs(robust - A).max() < 5e-3 < np.abs(plain - A).max()


def test_sim3_uses_the_scale_of_depth():
    rng = np.random.default_rng(2)
    scale, A = 2.5, pose(rng.normal(size=3), rng.normal(size=3))
    ref = random_poses(rng, 5)
    chunk = cameras.invert_rigid(A) @ ref
    chunk[:, :3, 3] /= scale
    depth_ref = rng.uniform(0.5, 3, (5, 20, 20))
    depth_chunk = depth_ref / scale
    depth_chunk[:, :3] = rng.uniform(0.1, 9, (5, 3, 20))  # wrong pixels
    depth_chunk[0, 10], depth_ref[1, 11] = np.nan, 0.0
    found = rigid.scale_from_depths(depth_chunk, depth_ref)
    assert found == pytest.approx(scale, rel=1e-9)
    S = rigid.align_sim3(chunk, ref, found)
    assert rigid.similarity_scale(S) == pytest.approx(scale)
    np.testing.assert_allclose(rigid.transform_poses(S, chunk), ref, atol=1e-9)
    seen_in_chunk = cameras.unproject_cam(np.array([[3.0, 4.0]]), np.array([0.8]), np.diag([5.0, 5, 1]))
    world = cameras.transform(S, cameras.transform(chunk[1], seen_in_chunk))
    np.testing.assert_allclose(world, cameras.transform(ref[1], seen_in_chunk * scale))


def test_a_static_camera_still_gets_its_scale():
    still = np.repeat(np.eye(4)[None], 3, 0)
    S = rigid.align_sim3(still, still, 1.7)
    np.testing.assert_allclose(cameras.transform(S, np.array([[0.0, 0, 1]])), [[0, 0, 1.7]])


@given(st.integers(0, 10_000))
def test_point_fits_agree_with_scipy_and_recover_similarities(seed):
    rng = np.random.default_rng(seed)
    src, weights = rng.normal(size=(8, 3)), rng.uniform(0.1, 2, 8)
    T = pose(rng.normal(size=3), rng.normal(size=3))
    dst = cameras.transform(T, src) + rng.normal(0, 0.1, (8, 3))
    fitted = rigid.fit_rigid(src, dst, weights)
    centre = lambda x: x - np.average(x, axis=0, weights=weights)  # noqa: E731
    theirs, _ = Rotation.align_vectors(centre(dst), centre(src), weights)
    np.testing.assert_allclose(fitted[:3, :3], theirs.as_matrix(), atol=1e-6)
    S = T.copy()
    S[:3, :3] *= 0.37
    np.testing.assert_allclose(rigid.fit_similarity(src, cameras.transform(S, src)), S, atol=1e-9)


def test_point_fits_skip_nan_and_refuse_degenerate():
    rng = np.random.default_rng(4)
    T, src = pose([0.1, 0.2, 0.3], [1, 2, 3]), rng.normal(size=(6, 3))
    dst = cameras.transform(T, src)
    src[2], dst[4] = np.nan, np.inf
    np.testing.assert_allclose(rigid.fit_rigid(src, dst), T, atol=1e-9)
    planar = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0.0]])
    np.testing.assert_allclose(rigid.fit_rigid(planar, cameras.transform(T, planar)), T, atol=1e-9)
    line = np.outer(np.arange(5.0), [1, 2, 3])
    for bad in (line, np.zeros((4, 3)), src[:2], np.zeros((0, 3))):
        with pytest.raises(InvalidInputError):
            rigid.fit_rigid(bad, bad)


def test_mean_rotation():
    axis = np.array([0.0, 0.0, 1.0])
    turns = Rotation.from_rotvec(np.outer([0.1, 0.2, 0.6], axis)).as_matrix()
    theirs = Rotation.from_matrix(turns).mean().as_matrix()
    np.testing.assert_allclose(rigid.mean_rotation(turns), theirs, atol=1e-9)
    np.testing.assert_allclose(rigid.mean_rotation(turns, np.array([0.0, 1.0, 0.0])), turns[1], atol=1e-12)
    with pytest.raises(InvalidInputError):
        rigid.mean_rotation(turns[:0])


def test_bad_alignments_are_refused():
    good = np.repeat(np.eye(4)[None], 2, 0)
    broken = good.copy()
    broken[0, 0, 0] = np.nan
    for chunk, ref in ((good[:0], good[:0]), (broken, good)):
        with pytest.raises(InvalidInputError):
            rigid.align_se3(chunk, ref)
    with pytest.raises(InvalidInputError):
        rigid.align_sim3(good, good, float("nan"))
    with pytest.raises(InvalidInputError):
        rigid.scale_from_depths(np.zeros((4, 4)), np.ones((4, 4)))
