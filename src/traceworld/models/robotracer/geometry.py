"""What is known of the geometry of a picture beside its pixels: intrinsics, metric depth, camera pose; any subset.

A sample of a batch may have what another lacks: every input has a mask of the samples that have it, and what stands in the
other rows means nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from traceworld.errors import InvalidInputError
from traceworld.geometry.cameras import resize_K

INPUTS = ("intrinsics", "depth_m", "poses")
"""The optional inputs of `GeometryInputs`."""


@dataclass(frozen=True, eq=False)
class GeometryInputs:
    """Pictures as the spatial encoder sees them, and what is known of their geometry.

    Attributes:
        image: [B,3,H,W] RGB in [0,1].
        intrinsics: [B,3,3] pixels of `image`.
        depth_m: [B,H,W] metres along the camera axis; 0, NaN or infinite where unknown.
        poses: [B,4,4] world_from_cam, metres, of a gravity-aligned world (+z up).
        intrinsics_present, depth_m_present, poses_present: [B] which samples have it. None: all, where there is the input.

    A sample whose depth map knows no pixel counts as one without depth. Without the input the mask is all False.
    """

    image: Float[Tensor, "B 3 H W"]
    intrinsics: Float[Tensor, "B 3 3"] | None = None
    depth_m: Float[Tensor, "B H W"] | None = None
    poses: Float[Tensor, "B 4 4"] | None = None
    intrinsics_present: Bool[Tensor, " B"] | None = None
    depth_m_present: Bool[Tensor, " B"] | None = None
    poses_present: Bool[Tensor, " B"] | None = None

    def __post_init__(self):
        batch, _, height, width = self.image.shape
        shapes = {"intrinsics": (batch, 3, 3), "depth_m": (batch, height, width), "poses": (batch, 4, 4)}
        for name, shape in shapes.items():
            value = getattr(self, name)
            if value is not None and tuple(value.shape) != shape:
                raise InvalidInputError(f"has shape {tuple(value.shape)} instead of {shape}", where=f"geometry.{name}")
            present = getattr(self, f"{name}_present")
            if value is None or present is None:
                filled = self.image.new_full((batch,), value is not None, dtype=torch.bool)
                object.__setattr__(self, f"{name}_present", filled)
            elif tuple(present.shape) != (batch,):
                raise InvalidInputError("is not one word per sample", where=f"geometry.{name}_present")
        if self.depth_m is not None:
            known = known_depth(self.depth_m).flatten(1).any(1)
            object.__setattr__(self, "depth_m_present", self.present("depth_m") & known)

    def __len__(self) -> int:
        return self.image.shape[0]

    def present(self, name: str) -> Bool[Tensor, " B"]:
        """Which samples have an input (one of `INPUTS`)."""
        return getattr(self, f"{name}_present")

    def without(self, *names: str) -> GeometryInputs:
        """The same without some of the inputs."""
        gone: dict[str, Any] = {field: None for name in names for field in (name, f"{name}_present")}
        return dataclasses.replace(self, **gone)

    def dropped(self, probability: float | Mapping[str, float], generator: torch.Generator) -> GeometryInputs:
        """The same with each input of each sample left out by chance (paper §4.2: so that any subset works later).

        Args:
            probability: of leaving out, for all inputs or by name.
            generator: a CPU generator; the same state leaves out the same.
        """
        chance = dict.fromkeys(INPUTS, probability) if not isinstance(probability, Mapping) else probability
        kept = {}
        for name in INPUTS:  # drawn for every input, so that one more input does not change the others' draws
            stays = torch.rand(len(self), generator=generator) >= chance.get(name, 0.0)
            if getattr(self, name) is not None:
                kept[f"{name}_present"] = self.present(name) & stays.to(self.image.device)
        return dataclasses.replace(self, **kept)

    def select(self, rows: Tensor) -> GeometryInputs:
        """Some samples (an index or a mask [B])."""
        return self._each(lambda value: value[rows])

    def to(self, device: torch.device | str) -> GeometryInputs:
        """The same on another device."""
        return self._each(lambda value: value.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> GeometryInputs:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        changed: dict[str, Any] = {name: None if value is None else change(value) for name, value in fields.items()}
        return GeometryInputs(**changed)

    @staticmethod
    def collate(samples: Sequence[GeometryInputs]) -> GeometryInputs:
        """One batch of several; an input that only some have is there for all, and absent where it was.

        Raises:
            InvalidInputError: no sample, or pictures of several sizes.
        """
        if not samples or len({sample.image.shape[1:] for sample in samples}) != 1:
            raise InvalidInputError("pictures of one size are batched, at least one", where="GeometryInputs.collate")
        fields: dict[str, Any] = {"image": torch.cat([sample.image for sample in samples])}
        for name in INPUTS:
            given = [getattr(sample, name) for sample in samples]
            some = next((value for value in given if value is not None), None)
            fields[name] = fields[f"{name}_present"] = None
            if some is not None:
                filled = [
                    some.new_zeros((len(sample), *some.shape[1:])) if value is None else value
                    for sample, value in zip(samples, given, strict=True)
                ]
                fields[name] = torch.cat(filled)
                fields[f"{name}_present"] = torch.cat([sample.present(name) for sample in samples])
        return GeometryInputs(**fields)


def geometry_of(
    image: UInt8[np.ndarray, "Himg Wimg 3"],
    size: tuple[int, int],
    K: Float[np.ndarray, "3 3"] | None = None,
    depth_m: Float[np.ndarray, "Hdepth Wdepth"] | None = None,
    world_from_cam: Float[np.ndarray, "4 4"] | None = None,
) -> GeometryInputs:
    """One sample (B = 1), stretched to the size of the spatial encoder.

    Args:
        size: (height, width) px. Intrinsics are stretched with the picture; of depth the nearest pixel is taken.
        K, depth_m, world_from_cam: as far as they are known.

    Raises:
        InvalidInputError: depth of another size than the picture, a focal length that is not positive, or NaN in K or pose.
    """
    height, width = size
    if depth_m is not None and depth_m.shape != image.shape[:2]:
        raise InvalidInputError("has another size than the picture", where="depth_m")
    if K is not None and not (np.isfinite(K).all() and K[0, 0] > 0 and K[1, 1] > 0):
        raise InvalidInputError("is no camera matrix", where="K", mend="give finite pixels, focal lengths above 0")
    if world_from_cam is not None and not np.isfinite(world_from_cam).all():
        raise InvalidInputError("holds NaN or infinity", where="world_from_cam")
    shrinks = image.shape[0] >= height and image.shape[1] >= width
    picture = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    scaled = None if K is None else resize_K(np.asarray(K, np.float64), image.shape[1::-1], (width, height))
    near = None if depth_m is None else _nearest(depth_m, height, width)
    return GeometryInputs(
        image=torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255,
        intrinsics=_one(scaled),
        depth_m=_one(near),
        poses=_one(world_from_cam),
    )


def known_depth(depth_m: Float[Tensor, "*batch"]) -> Bool[Tensor, "*batch"]:
    """Where a depth map says something: finite and above 0."""
    return torch.isfinite(depth_m) & (depth_m > 0)


def mean_depth(depth_m: Float[Tensor, "B H W"]) -> Float[Tensor, " B"]:
    """Mean of the known metres of each sample; NaN where nothing is known."""
    known = known_depth(depth_m)
    total = torch.where(known, depth_m, 0.0).flatten(1).sum(1)
    count = known.flatten(1).sum(1)
    return torch.where(count > 0, total / count.clamp(min=1), torch.nan)


def ray_map(intrinsics: Float[Tensor, "B 3 3"], height: int, width: int) -> Float[Tensor, "B 3 {height} {width}"]:
    """Unit direction of the ray through the centre of each pixel, in the camera frame (x right, y down, z forward)."""
    v, u = torch.meshgrid(
        torch.arange(height, device=intrinsics.device, dtype=intrinsics.dtype),
        torch.arange(width, device=intrinsics.device, dtype=intrinsics.dtype),
        indexing="ij",
    )
    pixels = torch.stack([u, v, torch.ones_like(u)]).flatten(1)  # [3, H·W]
    rays = torch.linalg.solve(intrinsics, pixels.expand(len(intrinsics), -1, -1))
    return torch.nn.functional.normalize(rays, dim=1).unflatten(2, (height, width))


def _nearest(depth_m: np.ndarray, height: int, width: int) -> np.ndarray:
    rows = ((np.arange(height) + 0.5) * depth_m.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * depth_m.shape[1] / width).astype(int)
    return depth_m[rows[:, None], columns]


def _one(value: np.ndarray | None) -> Tensor | None:
    return None if value is None else torch.from_numpy(np.ascontiguousarray(value, np.float32))[None]
