"""Our spatial encoder: what each input adds, that a missing one adds nothing, whatever stands in its place."""

import numpy as np
import pytest
import torch
from robotracer_toys import TINY, example
from scipy.spatial.transform import Rotation

from traceworld.models.robotracer.config import NoEncoderConfig
from traceworld.models.robotracer.geometry import INPUTS, GeometryInputs, geometry_of
from traceworld.models.robotracer.spatial_encoder import (
    OwnSpatialEncoder,
    build_spatial_encoder,
    pose_numbers,
    quaternion,
)

ADDS = {"intrinsics": {"rays"}, "depth_m": {"depth", "depth_scale"}, "poses": {"pose"}}


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return OwnSpatialEncoder(TINY.spatial).eval()


def batch(size=3):
    samples = [example(i) for i in range(size)]
    return GeometryInputs.collate(
        [geometry_of(e.image, TINY.spatial_size, e.K, e.depth_m, e.world_from_cam) for e in samples]
    )


def hide(geometry, name, rows):
    present = geometry.present(name).clone()
    present[rows] = False
    fields = {n: getattr(geometry, n) for n in INPUTS} | {f"{n}_present": geometry.present(n) for n in INPUTS}
    return GeometryInputs(geometry.image, **(fields | {f"{name}_present": present}))


def test_one_token_per_patch_and_the_scale_token(encoder):
    tokens = encoder(batch())
    assert tokens.shape == (3, TINY.num_spatial_tokens, 24)
    assert TINY.num_spatial_tokens == 3 * 4 + 1
    assert tokens.isfinite().all()
    assert build_spatial_encoder(NoEncoderConfig()) is None


@pytest.mark.parametrize("name", INPUTS)
def test_removing_an_input_removes_its_contribution_and_nothing_else(encoder, name):
    whole = encoder.contributions(batch())
    less = encoder.contributions(hide(batch(), name, [1]))
    for part, value in whole.items():
        assert value.abs().sum((1, 2)).min() > 0, f"{part} carries a signal"
        assert torch.equal(less[part][[0, 2]], value[[0, 2]])
        if part in ADDS[name]:
            assert not less[part][1].any()
        else:
            assert torch.equal(less[part][1], value[1])
    tokens, hidden = encoder(batch()), encoder(hide(batch(), name, [1]))
    assert torch.equal(tokens[[0, 2]], hidden[[0, 2]]), "other samples are not touched"
    assert (tokens[1] - hidden[1]).abs().max() > 1e-4, "the input is used"


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("rubbish", [0.0, float("nan"), float("inf"), -1e30])
def test_what_stands_in_the_place_of_a_missing_input_does_not_matter(encoder, name, rubbish):
    geometry = hide(batch(), name, [0, 1, 2])
    never = encoder(geometry.without(name))
    spoiled = getattr(geometry, name).clone().fill_(rubbish)
    fields = {n: getattr(geometry, n) for n in INPUTS} | {f"{n}_present": geometry.present(n) for n in INPUTS}
    given = GeometryInputs(geometry.image, **(fields | {name: spoiled}))
    encoder.zero_grad()
    tokens = encoder(given)
    assert torch.equal(tokens, never)
    tokens.square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in encoder.parameters())


def test_unknown_pixels_of_a_depth_map_may_hold_anything(encoder):
    e = example(0)
    holes = e.depth_m == 0
    spoiled = np.where(holes, np.nan, e.depth_m)
    negative = np.where(holes, -5.0, e.depth_m)
    plain, nan, minus = (
        encoder(geometry_of(e.image, TINY.spatial_size, e.K, d)) for d in (e.depth_m, spoiled, negative)
    )
    assert torch.equal(plain, nan)
    assert torch.equal(plain, minus)


def test_depth_enters_as_its_shape_and_its_mean(encoder):
    """Twice as far everywhere: the shape is the same, the scale alone differs."""
    e = example(0)
    near, far = (encoder.contributions(geometry_of(e.image, TINY.spatial_size, e.K, e.depth_m * s)) for s in (1.0, 2.0))
    torch.testing.assert_close(near["depth"], far["depth"])
    assert (near["depth_scale"] - far["depth_scale"]).abs().max() > 1e-3


def test_rows_of_a_batch_do_not_see_each_other(encoder):
    whole = encoder(batch(3))
    for i in range(3):
        torch.testing.assert_close(encoder(batch(3).select(torch.tensor([i])))[0], whole[i], atol=1e-6, rtol=1e-5)


def test_patches_are_in_reading_order(encoder):
    dark, lit = torch.zeros(1, 3, 24, 32), torch.zeros(1, 3, 24, 32)
    lit[..., 8:16, 24:32] = 1  # second row, fourth column of patches of 8
    changed = encoder.contributions(GeometryInputs(lit))["image"] - encoder.contributions(GeometryInputs(dark))["image"]
    assert torch.nonzero(changed[0].abs().sum(-1) > 0)[:, 0].tolist() == [1 * 4 + 3]


def test_quaternions_are_scipys():
    rotations = Rotation.random(200, random_state=0)
    special = Rotation.from_euler("xyz", [[180, 0, 0], [0, 180, 0], [0, 0, 180], [0, 0, 0], [90, 0, 0]], degrees=True)
    for each in (rotations, special):
        found = quaternion(torch.from_numpy(each.as_matrix()))
        expected = each.as_quat(canonical=True)
        close = np.abs(found.numpy() - expected).max(1) < 1e-9
        flipped = np.abs(found.numpy() + expected).max(1) < 1e-9  # w = 0: either sign is the same rotation
        assert (close | (flipped & (np.abs(expected[:, 3]) < 1e-9))).all()
    pose = torch.eye(4)[None]
    pose[0, :3, 3] = torch.tensor([3.0, 0, 4])
    torch.testing.assert_close(pose_numbers(pose)[0, 4:], torch.tensor([0.6, 0, 0.8, np.log(6.0)]).float())
