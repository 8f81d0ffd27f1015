"""The MapAnything adapter against a recorded stub with the documented signature of `MapAnything.forward(views)`."""

import sys
import types
from dataclasses import dataclass

import pytest
import torch
from robotracer_toys import example
from torch import nn

from traceworld.errors import CheckpointError, MissingExtraError, MissingWeightsError
from traceworld.models.robotracer.config import MapAnythingConfig, RoboTracerConfig
from traceworld.models.robotracer.geometry import GeometryInputs, geometry_of
from traceworld.models.robotracer.mapanything import MapAnythingEncoder
from traceworld.models.robotracer.scale import ScaleDecoder

DIM = 12
CONFIG = MapAnythingConfig(height=28, width=42, dim=DIM)


@dataclass
class Shared:
    features: list
    additional_token_features: torch.Tensor


class InfoSharing(nn.Module):
    def __init__(self, pairs):
        super().__init__()
        self.mix, self.pairs = nn.Linear(DIM, DIM), pairs

    def forward(self, features, token):
        mixed = self.mix(features.movedim(1, -1)).movedim(-1, 1)
        out = Shared([mixed], (token + mixed.mean((2, 3)))[..., None])
        return (out, []) if self.pairs else out


class MapAnything(nn.Module):
    """Views as documented; records them; its heads must not be run."""

    def __init__(self, pairs=True, kind="dinov2"):
        super().__init__()
        self.encoder = nn.Conv2d(3, DIM, 14, 14)
        self.encoder.data_norm_type = kind
        self.rays, self.depth = nn.Conv2d(3, DIM, 14, 14), nn.Conv2d(1, DIM, 14, 14)
        self.info_sharing, self.scale_head = InfoSharing(pairs), ScaleDecoder(DIM, 8)
        self.scale_token = nn.Parameter(torch.randn(DIM))
        self.geometric_input_config = {"overall_prob": 0.5, "dropout_prob": 0.5, "depth_prob": 0.1, "other": 3}
        self.views = []

    @classmethod
    def from_pretrained(cls, hub_id, revision=None, local_files_only=False):
        assert local_files_only
        if hub_id == "facebook/absent":
            raise FileNotFoundError(hub_id)
        torch.manual_seed(0)
        return cls()

    def forward(self, views, memory_efficient_inference=False, minibatch_size=None):
        (view,) = views
        self.views.append(view)
        features = self.encoder(view["img"])
        assert view["data_norm_type"] == [self.encoder.data_norm_type]
        if "ray_directions_cam" in view:
            features = features + self.rays(view["ray_directions_cam"].permute(0, 3, 1, 2))
        if "depth_along_ray" in view:
            assert view["is_metric_scale"].dtype == torch.bool
            features = features + self.depth(view["depth_along_ray"].permute(0, 3, 1, 2))
        self.info_sharing(features, self.scale_token)
        raise AssertionError("the heads are run")


@pytest.fixture
def installed(monkeypatch):
    package, models = types.ModuleType("mapanything"), types.ModuleType("mapanything.models")
    models.MapAnything = package.models = MapAnything
    package.models = models
    monkeypatch.setitem(sys.modules, "mapanything", package)
    monkeypatch.setitem(sys.modules, "mapanything.models", models)


def batch():
    samples = [example(i) for i in range(4)]
    whole = GeometryInputs.collate([geometry_of(e.image, (28, 42), e.K, e.depth_m, e.world_from_cam) for e in samples])
    fields = {n: getattr(whole, n) for n in ("image", "intrinsics", "depth_m", "poses")}
    has_rays, has_depth = torch.tensor([True, False, True, False]), torch.tensor([True, True, False, False])
    return GeometryInputs(**fields, intrinsics_present=has_rays, depth_m_present=has_depth)


def test_tokens_are_the_transformers_and_each_sample_has_what_it_has(installed):
    encoder = MapAnythingEncoder.from_hub(CONFIG)
    geometry = batch()
    tokens = encoder(geometry)
    assert tokens.shape == (4, 2 * 3 + 1, DIM)
    for i in range(4):
        torch.testing.assert_close(encoder(geometry.select(torch.tensor([i])))[0], tokens[i])
    assert torch.equal(encoder(geometry.without("poses")), tokens), "the pose of the only view is the identity"
    blind = encoder(GeometryInputs(geometry.image))
    changed = [bool((blind[i] != tokens[i]).any()) for i in range(4)]
    assert changed == [True, False, True, False], "depth goes in along the ray, so not without intrinsics"
    assert encoder.model.geometric_input_config["depth_prob"] == 1.0
    assert encoder.model.geometric_input_config["other"] == 3


def test_views_are_as_documented(installed):
    encoder = MapAnythingEncoder.from_hub(CONFIG)
    geometry = batch().select(torch.tensor([0]))
    encoder(geometry)
    (view,) = encoder.model.views
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(view["img"][0].movedim(0, -1) * deviation + mean, geometry.image[0].movedim(0, -1))
    rays, along = view["ray_directions_cam"], view["depth_along_ray"]
    assert (rays.shape, along.shape) == ((1, 28, 42, 3), (1, 28, 42, 1))
    torch.testing.assert_close((rays * along)[..., 2], geometry.depth_m)  # z of the point along the ray is the z-depth
    torch.testing.assert_close(rays.norm(dim=-1), torch.ones(1, 28, 42))


def test_it_is_frozen_and_starts_the_scale_decoder(installed):
    encoder = MapAnythingEncoder.from_hub(CONFIG).train()
    assert not encoder.model.training
    assert not any(p.requires_grad for p in encoder.parameters())
    assert not encoder(batch()).requires_grad
    decoder = ScaleDecoder(DIM, 8)
    decoder.start_from(encoder.scale_head)
    state = torch.randn(2, DIM)
    assert torch.equal(decoder(state), encoder.scale_head(state))


def test_without_pairs_and_with_another_width(installed):
    torch.manual_seed(0)
    assert MapAnythingEncoder(CONFIG, MapAnything(pairs=False))(batch()).shape == (4, 7, DIM)
    with pytest.raises(CheckpointError, match=r"the config says \(7, 24\)"):
        MapAnythingEncoder(MapAnythingConfig(height=28, width=42, dim=24), MapAnything())(batch())
    with pytest.raises(CheckpointError, match="normalises pictures as 'croco'"):
        MapAnythingEncoder(CONFIG, MapAnything(kind="croco"))(batch())


def test_what_is_missing_is_said(installed, monkeypatch):
    with pytest.raises(MissingWeightsError, match="hf download facebook/absent"):
        MapAnythingEncoder.from_hub(MapAnythingConfig(hub_id="facebook/absent"))
    monkeypatch.setitem(sys.modules, "mapanything.models", None)
    with pytest.raises(MissingExtraError, match="map-anything"):
        MapAnythingEncoder.from_hub(CONFIG)
    assert RoboTracerConfig(spatial=MapAnythingConfig()).num_spatial_tokens == 16 * 16 + 1


def test_a_robotracer_with_it(installed):
    import dataclasses

    from robotracer_toys import TINY, make

    model, processor = make("qwen3_vl", dataclasses.replace(TINY, spatial=CONFIG, scale_width=DIM, scale_hidden=8))
    names = model.trainable("enhancement")
    assert not any(name.startswith("spatial_encoder") for name in names)
    out = model(**processor.training_batch([example(0), example(1, full=False)]))
    out.loss.backward()
    assert model.spatial_projector.mlp[0].weight.grad.abs().max() > 0
    assert all(p.grad is None for p in model.spatial_encoder.parameters())
