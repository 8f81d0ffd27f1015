"""The switches of compat="official", each against what the dossier says of it."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from traceworld.errors import ConfigError
from traceworld.geometry.bspline import basis, fit_controls
from traceworld.models.mu0.config import Mu0Config
from traceworld.models.mu0.conventions import Conventions, conventions_of
from traceworld.models.mu0.model import Mu0Model
from traceworld.models.mu0.official.conventions import OfficialConventions, polynomial_turbo_table
from traceworld.models.mu0.official.switches import SWITCHES
from traceworld.models.mu0.sizes import mu0_config

OFFICIAL = OfficialConventions((4, 4))
LOG_RANGE = torch.log(torch.tensor([0.5, 4.0]))


def test_the_released_recipe():
    """§7.1 and §1.2, value by value."""
    config = mu0_config("large-official")
    prefix, expert = config.prefix, config.expert
    assert (config.compat, config.knots, config.degree, config.num_controls) == ("official", "official", 3, 10)
    assert (config.history, config.horizon, config.euler_steps, config.stop_threshold) == (8, 32, 4, 0.5)
    assert (prefix.attention, prefix.embedding_scale, prefix.rope_base) == ("bidirectional", "sqrt_width", 10_000.0)
    assert (prefix.prompt, prefix.max_text_tokens, prefix.image_size) == ("Task: {}\n", 48, 512)
    assert (prefix.depth_lora_rank, prefix.depth_lora_alpha) == (8, 16.0)
    assert (expert.history_scale, expert.history_validity, expert.anchor_z) == ("none", False, False)
    assert (expert.history_time, expert.clock, expert.summary) == ("shared", False, False)
    assert (config.local.source, config.local.hub_id, config.local.image_size) == ("dino", "facebook/dinov2-base", 518)
    # the released sum of squares over 30 numbers against our mean: the same balance
    assert (30 * config.loss.lambda_done, 30 * config.loss.lambda_rig) == pytest.approx((0.5, 5.0))
    assert (config.loss.tau, config.loss.rigidity) == ("beta", "distance")


@pytest.mark.parametrize("size", ["small-official", "base-official", "large-official"])
def test_it_survives_json(size):
    config = mu0_config(size)
    assert config.size == size
    assert Mu0Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_the_default_is_another():
    assert mu0_config("large").compat == "none"
    assert mu0_config("large") != dataclasses.replace(mu0_config("large-official"), compat="none", size="large")


OTHERWISE = {
    "degree": 1,
    "knots": "uniform",
    "use_history": False,
    "prefix.prompt": "{}",
    "prefix.max_text_tokens": 32,
    "prefix.rope_base": None,
    "prefix.attention": "causal",
    "prefix.embedding_scale": "none",
    "expert.anchor_z": True,
    "expert.history_validity": True,
    "expert.history_scale": "s_delta",
    "expert.history_time": "clean",
    "expert.clock": True,
}


@pytest.mark.parametrize("path", OTHERWISE)
def test_half_a_compat_is_refused(path):
    """A config that says `official` and has one switch otherwise."""
    config = mu0_config("small-official")
    *part, name = path.split(".")
    change = {name: OTHERWISE[path]}
    if part:
        change = {part[0]: dataclasses.replace(getattr(config, part[0]), **change)}
    with pytest.raises(ConfigError, match=f"{path} is .*, not "):
        dataclasses.replace(config, **change)


def test_no_switch_is_left_untested():
    elsewhere = {"compat", "target", "expert.summary"}  # other rules refuse these first
    assert OTHERWISE.keys() == SWITCHES.keys() - elsewhere


def test_nano_has_no_compat():
    with pytest.raises(ConfigError, match="SmolVLM2 prefix"):
        mu0_config("nano-official")
    with pytest.raises(ConfigError, match="SmolVLM2 prefix"):
        dataclasses.replace(mu0_config("nano"), compat="official")
    with pytest.raises(ConfigError, match="did you mean 'large'"):
        mu0_config("larg-official")


def test_conventions_are_chosen_by_the_config_alone(smolvlm_config):
    assert type(conventions_of(smolvlm_config)) is Conventions
    with torch.device("meta"):
        model = Mu0Model(mu0_config("small-official"))
        ours = Mu0Model(mu0_config("small"))
    assert model.conventions is model.prefix.conventions is model.features.conventions
    assert isinstance(model.conventions, OfficialConventions)
    assert type(ours.conventions) is Conventions
    assert ours.prefix.depth_adapter is None
    assert not hasattr(model, "clock_embedding")


def test_bezier_knots_and_the_soft_anchor():
    """Fact 1 and §1.6: Bernstein polynomials in thirds; the anchor is one row of weight 1, so P_0 is not 0."""
    matrix = basis(32, 10, 3, "official")
    for step in (0, 5, 16, 31):
        piece, a = divmod(step * 3 / 32, 1)
        expected = np.zeros(10)
        expected[3 * int(piece) :][:4] = [(1 - a) ** 3, 3 * a * (1 - a) ** 2, 3 * a * a * (1 - a), a**3]
        np.testing.assert_allclose(matrix[step], expected, atol=1e-12)
    future = np.cumsum(np.random.default_rng(0).normal(0, 0.05, (1, 32, 3)), axis=1)
    valid = np.ones((1, 32), bool)
    valid[0, 20:] = False
    controls, _ = fit_controls(future, valid, knots="official", clip=None)
    rows = np.concatenate([matrix[:21], 0.2 * np.diff(np.eye(10), axis=0)])
    wanted = np.concatenate([np.zeros((1, 3)), future[0, :20], np.zeros((9, 3))])
    np.testing.assert_allclose(controls[0], np.linalg.lstsq(rows, wanted, rcond=None)[0], atol=1e-9)
    assert np.abs(controls[0, 0]).max() > 1e-3


def test_squares_are_plain_bilinear():
    """Shrinking 16 → 4 reads two of four pixels at each place; averaging would read all four."""
    row = torch.arange(16) ** 2 % 251
    image = row.to(torch.uint8)[None, None, :, None].expand(1, 16, 16, 3)
    got = OFFICIAL.rgb(image, 4, 4)[0, 0, 0] * 255
    expected = [(row[4 * i + 1] + row[4 * i + 2]) / 2 for i in range(4)]
    np.testing.assert_allclose(got.numpy(), np.array(expected, np.float32), rtol=1e-5)
    assert not torch.allclose(Conventions().rgb(image, 4, 4)[0, 0, 0] * 255, got, atol=0.5)
    assert torch.equal(OFFICIAL.rgb(image, 16, 16), image.movedim(-1, 1).float() / 255)


def test_dino_is_shown_the_square_that_the_prefix_sees():
    image = torch.randint(0, 256, (1, 16, 12, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    square = OFFICIAL.rgb(image, 4, 4)
    again = torch.nn.functional.interpolate(square, (7, 7), mode="bilinear", align_corners=False)
    assert torch.equal(OFFICIAL.dino_rgb(image, 7), again)


def test_turbo_is_the_polynomial_clipped():
    table = polynomial_turbo_table()
    x = 100 / 255
    red = 0.13572138 + x * (4.6153926 + x * (-42.66032258 + x * (132.13108234 + x * (-152.94239396 + x * 59.28637943))))
    assert table[100, 0].item() == pytest.approx(red, abs=1e-6)
    assert table.min() >= 0
    assert table.max() <= 1


def test_near_is_bright_unknown_is_far_and_colours_are_resized():
    depth = torch.tensor([[[0.5, 4.0], [np.nan, 0.0], [99.0, 0.01], [2**0.5, 1.0]]])
    picture = OFFICIAL.depth_picture(depth, LOG_RANGE, 4, 2)[0]
    table = polynomial_turbo_table()
    for (y, x), index in {(0, 0): 255, (0, 1): 0, (1, 0): 0, (1, 1): 0, (2, 0): 0, (2, 1): 255}.items():
        assert torch.equal(picture[:, y, x], table[index]), (y, x)
    assert torch.equal(picture[:, 3, 0], table[127])  # halfway in log: floor(127.5)
    half = OFFICIAL.depth_picture(torch.tensor([[[0.5, 4.0]]]), LOG_RANGE, 1, 1)[0, :, 0, 0]
    torch.testing.assert_close(half, (table[255] + table[0]) / 2)  # the colour between, not the depth between


def test_words_history_and_pictures():
    assert OFFICIAL.instruction("  ") == "predict future trajectory"
    assert OFFICIAL.instruction(" open it ") == "open it"
    valid = np.array([[True, False], [False, False]])
    assert OFFICIAL.history_shown(valid, given=True).all()
    assert not OFFICIAL.history_shown(valid, given=False).any()
    assert np.array_equal(Conventions().history_shown(valid, given=True), valid)
    picture = np.zeros((3, 5, 3), np.uint8)
    assert OFFICIAL.observed_picture(picture, (4, 4)) is picture
    depth = np.zeros((3, 5), np.float32)
    assert OFFICIAL.observed_depth(depth, (4, 4)) is depth
