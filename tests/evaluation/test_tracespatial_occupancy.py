"""Occupied voxels against a dense volume filled voxel by voxel; solid obstacles; the published faults and their mends."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tracespatial"))
from bench_scenes import BARRIER, BARRIER_SIZE, MUG, K, cast, item

from traceworld.errors import InvalidInputError
from traceworld.evaluation.tracespatial.occupancy import SolidDepth, VoxelSet, collision_shares, occupied_voxels

SMALL_K = np.array([[40.0, 0, 19.5], [0, 40.0, 14.5], [0, 0, 1]])


def plain_crossings(depth, K):
    """The same volume by loops over the voxels of every block that a fourth pixel opens."""
    height, width = depth.shape
    opened = set()
    for v in range(0, height, 4):
        for u in range(0, width, 4):
            z = float(depth[v, u])
            if z > 0:
                p = np.array([(u - K[0, 2]) * z / K[0, 0], (v - K[1, 2]) * z / K[1, 1], z])
                low, high = np.floor((p - 0.08) / 0.32).astype(int), np.floor((p + 0.08) / 0.32).astype(int)
                opened |= {tuple(low + np.array(step)) for step in np.ndindex(*(high - low + 1))}
    value = {}
    for block in opened:
        for offset in np.ndindex(16, 16, 16):
            cell = np.array(block) * 16 + offset
            x, y, z = cell * 0.02 + 0.01
            if z <= 0:
                continue
            u, v = x * K[0, 0] / z + K[0, 2] + 0.5, y * K[1, 1] / z + K[1, 2] + 0.5
            if not (1e-4 <= u < width - 1e-4 and 1e-4 <= v < height - 1e-4):
                continue
            u, v = int(u), int(v)
            d = float(depth[v, u])
            stretch = np.sqrt(((u - K[0, 2]) / K[0, 0]) ** 2 + ((v - K[1, 2]) / K[1, 1]) ** 2 + 1)
            share = min((d - z) * stretch / 0.08, 1.0)
            if d > 0 and -0.98 <= share < 0.98:
                value[tuple(cell)] = share
    found = []
    for cell, here in value.items():
        for axis in range(3):
            next_cell = list(cell)
            next_cell[axis] += 1
            there = value.get(tuple(next_cell))
            if there is not None and here * there < 0:
                point = np.array(cell) * 0.02 + 0.01
                point[axis] += 0.02 * abs(here) / (abs(here) + abs(there))
                found.append(point)
    return np.array(found)


def test_against_loops():
    v, u = np.mgrid[:30, :40]
    depth = (0.7 + 0.004 * u + 0.002 * v + 0.03 * np.sin(u / 3.0)).astype(np.float32)
    depth[10:16, 12:22] = 0.52
    depth[:4, :5] = 0
    points = plain_crossings(depth, SMALL_K)
    found = occupied_voxels(depth, SMALL_K)
    origin = points.min(axis=0) - 0.01
    np.testing.assert_allclose(found.origin, origin, atol=1e-5)
    cells = {tuple(cell) for cell in np.floor((points - origin) / 0.02).astype(int)}
    ours = {tuple(cell) for cell in np.argwhere(found.grid)}
    assert len(ours) > 200
    assert len(ours ^ cells) <= 0.01 * len(cells)  # single against double precision on a cell's edge


def test_a_plane_is_one_layer():
    """At 1.033 m: occupied there, free 3 cm before and behind (B3: hollow)."""
    voxels = occupied_voxels(np.full((30, 40), 1.033), SMALL_K)
    at = np.array([[0.05, 0.05, 1.033], [0.05, 0.05, 1.0], [0.05, 0.05, 1.07]])
    assert voxels.occupied(at).tolist() == [True, False, False]


def test_a_face_on_voxel_centres_vanishes():
    """B4: exactly on the centres of the lattice there is no change of sign."""
    # Both exact in binary: 0.7578125 is no centre, and a centre in single precision gives zero.
    centre = float(np.float32(37 * 0.02 + 0.01))
    with pytest.raises(InvalidInputError):
        occupied_voxels(np.full((30, 40), centre, np.float32), SMALL_K)
    solid = SolidDepth(np.full((30, 40), centre), SMALL_K)
    assert solid.occupied(np.array([[0.0, 0.0, centre + 0.02]])).all()


def test_indices_are_cut_toward_zero():
    """B10: up to a voxel below the grid counts as its first cell."""
    voxels = VoxelSet(np.zeros(3), np.ones((2, 2, 2), bool))
    at = np.array(
        [[-0.019, 0.01, 0.01], [-0.021, 0.01, 0.01], [0.039, 0.01, 0.01], [0.041, 0.01, 0.01], [np.nan, 0, 0]]
    )
    assert voxels.occupied(at).tolist() == [True, False, True, False, False]


def test_no_depth_within_five_metres():
    with pytest.raises(InvalidInputError):
        occupied_voxels(np.full((30, 40), 5.0), SMALL_K)


def test_solid_behind_the_surface_to_its_thickness():
    depth = np.full((30, 40), 1.0)
    depth[:, :20] = 0
    solid = SolidDepth(depth, SMALL_K)
    z = np.array([0.5, 1.0, 1.009, 1.02, 1.19, 1.21])
    inside = solid.occupied(np.stack([0.1 * z, 0 * z, z], axis=1))
    assert inside.tolist() == [False, False, False, True, True, False]
    elsewhere = np.array([[-0.1, 0, 1.05], [5.0, 0, 1.05], [0.1, 0, -1.05], [0.1, 0, 0.0]])  # unknown, outside, behind
    assert not solid.occupied(elsewhere).any()


def test_the_object_is_no_obstacle_to_itself():
    for value in (1, 255):
        given = item(mask_value=value)
        solid = SolidDepth.around(given.mask, given.gt_depth_mm, K)
        assert (solid.depth_m[given.mask > 0] == 0).all()


def test_dragging_through_a_box_is_seen_by_the_solid_and_not_by_the_hollow():
    """Along the front of the box the hollow shell is hit in one layer of 2 cm; inside of it, never."""
    depth, _ = cast([(BARRIER, BARRIER_SIZE)])
    cloud = MUG + np.random.default_rng(0).uniform(-0.02, 0.02, (200, 3))  # well behind the front face of the box
    path = np.linspace([0, 0, 0], [0.7, 0, 0], 71)
    hollow = collision_shares(occupied_voxels(depth, K), cloud, path)
    solid = collision_shares(SolidDepth(depth, K), cloud, path)
    middle = slice(33, 38)
    assert solid[middle].min() > 0.9
    assert hollow[middle].max() < 0.2
    assert solid[0] == solid[-1] == 0


def test_nothing_to_move_is_not_free():
    solid = SolidDepth(np.ones((30, 40)), SMALL_K)
    for cloud, path in ((np.zeros((0, 3)), np.zeros((2, 3))), (np.zeros((2, 3)), np.zeros((0, 3)))):
        with pytest.raises(InvalidInputError):
            collision_shares(solid, cloud, path)
