"""MapAnything as the spatial encoder: its published model up to the tokens of its information-sharing transformer, frozen.

Used by what its documentation promises of `MapAnything.forward(views)` (package `mapanything`, code Apache-2.0): the keys of a
view, `encoder.data_norm_type`, `geometric_input_config`, and the module `info_sharing`, whose output is taken by a hook; the
heads behind it (dense geometry, pose) are not run.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from traceworld.errors import CheckpointError, MissingExtraError, MissingWeightsError
from traceworld.models.robotracer.config import MapAnythingConfig
from traceworld.models.robotracer.geometry import GeometryInputs, known_depth, ray_map

INSTALL = "pip install git+https://github.com/facebookresearch/map-anything.git"
LICENCES = {"facebook/map-anything": "CC-BY-NC-4.0", "facebook/map-anything-apache": "Apache-2.0"}
_ALL_THAT_IS_GIVEN = {
    "overall_prob": 1.0,
    "dropout_prob": 0.0,
    "ray_dirs_prob": 1.0,
    "depth_prob": 1.0,
    "cam_prob": 1.0,
    "sparse_depth_prob": 0.0,
    "depth_scale_norm_all_prob": 0.0,
    "pose_scale_norm_all_prob": 0.0,
}
"""MapAnything drops inputs by chance, in evaluation too, unless told otherwise."""
_NORMALISATIONS = {
    "dinov2": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "identity": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "dummy": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
"""Mean and deviation of RGB by the name of the image encoder's normalisation."""


class MapAnythingEncoder(nn.Module):
    """One token per patch and the scale token.

    Depth goes in along the ray, so a sample with depth but without intrinsics is one without depth here. The pose of the only
    view relative to itself is the identity, so poses do not go in.

    Args:
        model: a `mapanything.models.MapAnything`.
    """

    frozen = True

    def __init__(self, config: MapAnythingConfig, model: nn.Module):
        super().__init__()
        self.config, self.model = config, model.eval().requires_grad_(False)
        inner: Any = model
        inner.geometric_input_config = {**inner.geometric_input_config, **_ALL_THAT_IS_GIVEN}

    @classmethod
    def from_hub(cls, config: MapAnythingConfig) -> MapAnythingEncoder:
        """With the published weights of the local hub cache.

        Raises:
            MissingExtraError: the package is not installed.
            MissingWeightsError: the weights are not on this machine; says licence and command.
        """
        try:
            package = importlib.import_module("mapanything.models")
        except ImportError as error:
            raise MissingExtraError(f"MapAnything is needed here: {error}", where="spatial", mend=INSTALL) from error
        try:
            model = package.MapAnything.from_pretrained(config.hub_id, revision=config.revision, local_files_only=True)
        except OSError as error:
            pin = f" --revision {config.revision}" if config.revision else ""
            raise MissingWeightsError(
                f"the weights are not in the local hub cache (licence: {LICENCES.get(config.hub_id, 'see its card')})",
                where=config.hub_id,
                mend=f"hf download {config.hub_id}{pin}",
            ) from error
        return cls(config, model)

    @property
    def scale_head(self) -> nn.Module:
        """The head that the paper's scale decoder starts from."""
        inner: Any = self.model
        return inner.scale_head

    def train(self, mode: bool = True) -> MapAnythingEncoder:
        super().train(mode)
        self.model.eval()  # frozen
        return self

    @torch.no_grad()
    def forward(self, geometry: GeometryInputs) -> Float[Tensor, "B L C"]:
        rays, depth = geometry.present("intrinsics"), geometry.present("depth_m") & geometry.present("intrinsics")
        tokens: Tensor | None = None
        for with_rays, with_depth in (
            (False, False),
            (True, False),
            (True, True),
        ):  # a view has an input for all or none
            rows = torch.nonzero((rays == with_rays) & (depth == with_depth))[:, 0]
            if len(rows):
                found = self._tokens(self._view(geometry.select(rows), with_rays, with_depth))
                tokens = found.new_zeros(len(geometry), *found.shape[1:]) if tokens is None else tokens
                tokens[rows] = found
        assert tokens is not None
        return tokens

    def _view(self, geometry: GeometryInputs, with_rays: bool, with_depth: bool) -> dict[str, Any]:
        inner: Any = self.model
        kind = str(inner.encoder.data_norm_type)
        family = next((name for name in _NORMALISATIONS if kind.startswith(name)), None)
        if family is None:
            raise CheckpointError(
                f"normalises pictures as '{kind}'", where=self.config.hub_id, mend="use a DINOv2 model"
            )
        mean, deviation = (geometry.image.new_tensor(each)[:, None, None] for each in _NORMALISATIONS[family])
        view: dict[str, Any] = {"img": (geometry.image - mean) / deviation, "data_norm_type": [kind]}
        if with_rays:
            assert geometry.intrinsics is not None
            rays = ray_map(geometry.intrinsics, *geometry.image.shape[-2:]).movedim(1, -1)
            view["ray_directions_cam"] = rays
            if with_depth:
                assert geometry.depth_m is not None
                z = torch.where(known_depth(geometry.depth_m), geometry.depth_m, 0.0)
                view["depth_along_ray"] = (z / rays[..., 2])[..., None]
                view["is_metric_scale"] = torch.ones(len(geometry), dtype=torch.bool, device=z.device)
        return view

    def _tokens(self, view: dict[str, Any]) -> Float[Tensor, "B L C"]:
        inner: Any = self.model
        with _stopping_after(inner.info_sharing) as taken, contextlib.suppress(_EnoughError):
            inner([view])
        output = taken[0]
        final = output[0] if isinstance(output, tuple) else output
        patches = final.features[0].flatten(2).mT  # [B,C,h,w] of the only view
        scale = final.additional_token_features.mT
        tokens = torch.cat([patches, scale], dim=1)
        count = (self.config.height // self.config.patch) * (self.config.width // self.config.patch) + 1
        if tuple(tokens.shape[1:]) != (count, self.config.dim):
            raise CheckpointError(
                f"gives tokens {tuple(tokens.shape[1:])}, the config says {(count, self.config.dim)}",
                where=self.config.hub_id,
                mend="set spatial.patch and spatial.dim to its own",
            )
        return tokens


class _EnoughError(Exception):
    pass


@contextlib.contextmanager
def _stopping_after(module: nn.Module) -> Iterator[list[Any]]:
    """Within the block `module`'s output is put into the list and nothing behind it is computed."""
    taken: list[Any] = []

    def take(_module: nn.Module, _inputs: Any, output: Any) -> None:
        taken.append(output)
        raise _EnoughError

    handle = module.register_forward_hook(take)
    try:
        yield taken
    finally:
        handle.remove()
