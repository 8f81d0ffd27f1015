"""Grid, increments and patches: the representation (dossier §0, §2.2, §2.4)."""

import numpy as np
import pytest
import torch
from scipy.interpolate import RegularGridInterpolator

from traceworld.models.tracegen.grid import Grid, displacements, increments
from traceworld.models.tracegen.patches import from_patches, to_patches


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def inside(B, N, reach=1.0, seed=0):
    return (torch.rand(B, N, 2, generator=generator(seed)) * 2 - 1) * reach


def test_cells_tile_the_picture():
    uv = Grid.of_cells(20).uv.reshape(20, 20, 2)
    assert uv[0, 0].tolist() == pytest.approx([-0.95, -0.95])
    assert uv[-1, -1].tolist() == pytest.approx([0.95, 0.95])
    assert uv[0, 1].tolist() == pytest.approx([-0.85, -0.95])  # row-major: u runs first


def test_sampling_is_bilinear_interpolation():
    grid = Grid.of_cells(5)
    field = torch.randn(2, 3, 4, 5, 5, 3, generator=generator())
    uv = inside(2, 30, reach=0.8)
    ours = grid.sample(grid.weights(uv), field).numpy()
    axis = -1 + 0.2 + 0.4 * np.arange(5)
    for b in range(2):
        theirs = RegularGridInterpolator((axis, axis), field[b].permute(2, 3, 0, 1, 4).numpy())(uv[b].numpy()[:, ::-1])
        np.testing.assert_allclose(ours[b], theirs.transpose(1, 0, 2, 3), atol=1e-5)


def test_weights_sum_to_one_everywhere_and_clamp_beyond_the_outermost_points():
    grid = Grid.of_cells(6)
    weights = grid.weights(inside(2, 200, reach=3.0))
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 200))
    assert (weights >= 0).all()
    assert ((weights > 0).sum(-1) <= 4).all()
    corner = grid.weights(torch.tensor([[[-9.0, 9.0], [torch.nan, 0.0]]]))
    assert corner[0, 0].argmax() == 5 * 6  # left, bottom
    assert torch.isfinite(corner).all()


def test_a_keypoint_on_a_grid_point_is_that_point():
    grid = Grid.of_cells(4)
    assert torch.equal(grid.weights(grid.uv[None])[0].round(decimals=5), torch.eye(16))


def test_a_grid_of_one_point():
    assert torch.equal(Grid.of_cells(1).weights(inside(1, 3)), torch.ones(1, 3, 1))


def test_splat_is_the_adjoint_of_sample():
    """⟨splat's sum, field⟩ = ⟨values, sample(field)⟩."""
    grid, uv = Grid.of_cells(5), inside(2, 7)
    matrix = grid.weights(uv)
    values = torch.randn(2, 7, 4, 3, generator=generator())
    known = torch.rand(2, 7, 4, generator=generator()) > 0.3
    field = torch.randn(2, 4, 5, 5, 3, generator=generator(1))
    mean, weight = grid.splat(matrix, values, known)
    left = (mean * weight[..., None] * field).sum()
    right = (values * known[..., None] * grid.sample(matrix, field[:, None])[:, 0]).sum()
    assert left.item() == pytest.approx(right.item(), rel=1e-4)


def test_splat_is_a_weighted_mean_by_hand():
    grid = Grid.of_cells(2)  # points at ±0.5
    uv = torch.tensor([[[-0.5, -0.5], [0.0, -0.5], [0.0, -0.5]]])
    values = torch.tensor([3.0, 9.0, 1e6]).reshape(1, 3, 1, 1).expand(1, 3, 1, 3)
    known = torch.tensor([True, True, False]).reshape(1, 3, 1)
    mean, weight = grid.splat(grid.weights(uv), values, known)
    np.testing.assert_allclose(weight[0, 0], [[1.5, 0.5], [0, 0]], atol=1e-6)
    np.testing.assert_allclose(mean[0, 0, ..., 0], [[(3 + 0.5 * 9) / 1.5, 9], [0, 0]], rtol=1e-5)


def test_a_rigid_shift_survives_splat_and_sample():
    """If all keypoints move alike, so does each of them after the way over the grid."""
    grid, uv = Grid.of_cells(20), inside(3, 40)
    moved = torch.randn(3, 1, 32, 3, generator=generator()).expand(3, 40, 32, 3)
    matrix = grid.weights(uv)
    mean, _ = grid.splat(matrix, moved, torch.ones(3, 40, 32, dtype=torch.bool))
    torch.testing.assert_close(grid.sample(matrix, mean[:, None])[:, 0], moved, atol=1e-5, rtol=1e-4)


def test_unknown_values_never_reach_the_grid():
    grid, uv = Grid.of_cells(4), inside(1, 6)
    known = torch.arange(6)[None, :, None] % 2 == 0
    values = torch.randn(1, 6, 1, 3, generator=generator())
    spoilt = torch.where(known[..., None], values, torch.nan)
    for a, b in zip(
        grid.splat(grid.weights(uv), values, known), grid.splat(grid.weights(uv), spoilt, known), strict=True
    ):
        assert torch.equal(a, b)


def test_the_order_of_keypoints_does_not_matter():
    grid, uv = Grid.of_cells(6), inside(2, 9)
    values, known = torch.randn(2, 9, 3, 3, generator=generator()), torch.ones(2, 9, 3, dtype=torch.bool)
    order = torch.randperm(9, generator=generator())
    a = grid.splat(grid.weights(uv), values, known)
    b = grid.splat(grid.weights(uv[:, order]), values[:, order], known[:, order])
    torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_increments_and_positions():
    path = torch.randn(2, 5, 32, 3, generator=generator()).cumsum(2)
    step, known = increments(path, torch.ones(2, 5, 32, dtype=torch.bool))
    assert known.all()
    torch.testing.assert_close(step[:, :, 1:], path[:, :, 1:] - path[:, :, :-1])
    torch.testing.assert_close(step[:, :, 0], path[:, :, 0])  # from the anchor
    torch.testing.assert_close(displacements(step), path, atol=1e-5, rtol=1e-4)


def test_an_increment_needs_both_its_ends():
    valid = torch.tensor([True, False, True, True])
    step, known = increments(torch.full((4, 3), torch.nan).masked_fill(valid[:, None], 2.0), valid)
    assert known.tolist() == [True, False, False, True]
    assert step[:, 0].tolist() == [2.0, 0.0, 0.0, 0.0]


def test_patches_round_trip_and_order():
    field = torch.randn(2, 32, 20, 20, 3, generator=generator())
    tokens = to_patches(field, 2, 2)
    assert tokens.shape == (2, 1600, 24)
    assert torch.equal(from_patches(tokens, 20, 2, 2), field)
    # token (t=3, row=4, column=5); channel 2 · coordinate + step parity, then row and column within the patch
    expected = [
        field[1, 6 + parity, 8 + row, 10 + column, coordinate]
        for coordinate in range(3)
        for parity in range(2)
        for row in range(2)
        for column in range(2)
    ]
    assert tokens[1, 3 * 100 + 4 * 10 + 5].tolist() == [x.item() for x in expected]


@pytest.mark.parametrize(("side", "space", "time"), [(6, 3, 4), (4, 1, 8), (6, 2, 1)])
def test_patches_of_other_sizes(side, space, time):
    field = torch.randn(1, 8, side, side, 3, generator=generator())
    assert torch.equal(from_patches(to_patches(field, space, time), side, space, time), field)
