"""Geometry of a picture, any subset: masks, stretching, rays, means, and what is refused."""

import numpy as np
import pytest
import torch

from traceworld.errors import InvalidInputError
from traceworld.models.robotracer.geometry import INPUTS, GeometryInputs, geometry_of, mean_depth, ray_map

rng = np.random.default_rng(0)
IMAGE = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
K = np.array([[25.0, 0, 14.0], [0, 24.0, 9.0], [0, 0, 1]])


def sample(full=True):
    depth = np.random.default_rng(0).uniform(0.5, 2.0, (20, 30))
    return geometry_of(IMAGE, (10, 15), K, depth, np.eye(4)) if full else geometry_of(IMAGE, (10, 15))


def test_rays_go_through_pixel_centres():
    torch.manual_seed(0)
    intrinsics = torch.tensor(np.stack([K, [[10.0, 1.5, 3.0], [0, 12.0, 5.0], [0, 0, 1]]])).double()
    rays = ray_map(intrinsics, 7, 9)
    assert rays.shape == (2, 3, 7, 9)
    torch.testing.assert_close(rays.norm(dim=1), torch.ones(2, 7, 9).double())
    for b, v, u in ((0, 0, 0), (1, 6, 8), (1, 3, 2)):
        point = intrinsics[b] @ (rays[b, :, v, u] / rays[b, 2, v, u])
        torch.testing.assert_close(point[:2], torch.tensor([u, v]).double())


def test_everything_is_stretched_alike():
    """A pixel of the stretched depth map, lifted with the stretched K, is a pixel of the full map lifted with K."""
    depth = np.linspace(1.0, 3.0, 30)[None].repeat(20, 0)
    small = geometry_of(IMAGE, (10, 10), K, depth)
    assert small.image.shape == (1, 3, 10, 10)
    assert 0 <= float(small.image.min()) <= float(small.image.max()) <= 1
    rays = ray_map(small.intrinsics.double(), 10, 10)[0]
    at = np.array([(u + 0.5) * 30 / 10 - 0.5 for u in range(10)])  # where the centre of column u is in the full picture
    x_over_z = (at - K[0, 2]) / K[0, 0]
    np.testing.assert_allclose((rays[0] / rays[2])[0].numpy(), x_over_z, atol=1e-6)
    np.testing.assert_allclose(small.depth_m[0, 0].numpy(), depth[0, at.round().astype(int)], atol=1e-6)


def test_masks_say_who_has_what():
    both = GeometryInputs.collate([sample(), sample(full=False)])
    for name in INPUTS:
        assert both.present(name).tolist() == [True, False]
    none = GeometryInputs.collate([sample(full=False)])
    assert none.intrinsics is None
    assert none.present("intrinsics").tolist() == [False]
    assert both.without("depth_m").depth_m is None
    assert both.without("depth_m").present("depth_m").tolist() == [False, False]
    assert both.select(torch.tensor([1, 0])).present("poses").tolist() == [False, True]
    torch.testing.assert_close(both.select(torch.tensor([0])).depth_m, sample().depth_m)


def test_depth_that_knows_nothing_is_no_depth():
    depth = np.full((20, 30), np.nan)
    depth[0] = 0
    assert geometry_of(IMAGE, (10, 15), depth_m=depth).present("depth_m").tolist() == [False]


def test_inputs_are_dropped_by_chance_and_the_same_seed_drops_the_same():
    many = sample().select(torch.zeros(400, dtype=torch.long))

    def draw(chance, seed=0, of=many):
        return of.dropped(chance, torch.Generator().manual_seed(seed))

    one, two = draw(0.3), draw(0.3)
    for name in INPUTS:
        assert torch.equal(one.present(name), two.present(name))
        assert 0.6 < one.present(name).float().mean() < 0.8
    together = one.present("intrinsics") & one.present("depth_m")
    assert 0.4 < together.float().mean() < 0.58, "each by itself: 0.7 · 0.7"
    only = draw({"depth_m": 1.0})
    assert not only.present("depth_m").any()
    assert only.present("poses").all()
    assert torch.equal(draw(0.3, of=many.without("intrinsics")).present("poses"), one.present("poses"))
    some = GeometryInputs.collate([sample(full=False), sample()])
    assert not draw(0.0, of=some).present("depth_m")[0], "nothing is made up"


def test_the_mean_is_of_what_is_known():
    depth = torch.tensor([[[1.0, 3.0, 0.0, torch.nan, torch.inf]], [[0.0, 0.0, torch.nan, -1.0, 0.0]]])
    mean = mean_depth(depth)
    assert mean[0] == 2.0
    assert mean[1].isnan()


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({"depth_m": np.ones((4, 4))}, "depth_m"),
        ({"K": np.zeros((3, 3))}, "K"),
        ({"K": np.full((3, 3), np.nan)}, "K"),
        ({"world_from_cam": np.full((4, 4), np.inf)}, "world_from_cam"),
    ],
)
def test_what_cannot_be_is_refused(wrong, where):
    with pytest.raises(InvalidInputError) as caught:
        geometry_of(IMAGE, (10, 15), **wrong)
    assert caught.value.where == where


def test_shapes_are_checked():
    with pytest.raises(InvalidInputError, match="at least one"):
        GeometryInputs.collate([])
    with pytest.raises(InvalidInputError, match="one size"):
        GeometryInputs.collate([sample(), geometry_of(IMAGE, (5, 5))])
