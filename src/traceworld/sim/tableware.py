"""Things for a table, made of plain shapes: mugs, bowls, bottles, boxes, plates, trays, baskets, …

Every thing stands on z = 0 about the origin of its own frame. Its pieces are boxes and upright cylinders, turned about the vertical
only, so that its bounding box is exact. Hollow things are hollow: rings of boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
from jaxtyping import Float64

Color = tuple[float, float, float]

COLORS: Mapping[str, Color] = MappingProxyType(
    {
        "red": (0.78, 0.11, 0.12),
        "orange": (0.93, 0.48, 0.10),
        "yellow": (0.93, 0.82, 0.16),
        "green": (0.16, 0.58, 0.22),
        "blue": (0.13, 0.29, 0.74),
        "purple": (0.48, 0.18, 0.62),
        "pink": (0.93, 0.55, 0.70),
        "brown": (0.42, 0.26, 0.13),
        "white": (0.93, 0.93, 0.91),
        "gray": (0.48, 0.48, 0.50),
        "black": (0.09, 0.09, 0.10),
    }
)

RING_PIECES = 10
WALL_M = 0.006


@dataclass(frozen=True)
class Piece:
    """One shape: `size` are half sides of a box, or radius and half height of a cylinder; `shade` darkens or lightens."""

    kind: Literal["box", "cylinder"]
    size: tuple[float, ...]
    pos: tuple[float, float, float]
    yaw: float = 0.0
    shade: float = 1.0

    def bounds(self) -> tuple[Float64[np.ndarray, " 3"], Float64[np.ndarray, " 3"]]:
        """Lowest and highest coordinates in the thing's frame."""
        if self.kind == "cylinder":
            reach = np.array([self.size[0], self.size[0], self.size[1]])
        else:
            c, s = abs(np.cos(self.yaw)), abs(np.sin(self.yaw))
            x, y, z = self.size
            reach = np.array([c * x + s * y, s * x + c * y, z])
        return np.array(self.pos) - reach, np.array(self.pos) + reach


@dataclass(frozen=True)
class Ware:
    """A class of things.

    Attributes:
        make: pieces for a scale factor.
        materials: what it may be made of.
        carries: other things may be put on it by `tabletop`.
        colors: names it may have; () for any.
    """

    make: Callable[[float, np.random.Generator], tuple[Piece, ...]]
    materials: tuple[str, ...]
    carries: bool = False
    colors: tuple[str, ...] = ()


def _box(x: float, y: float, z: float, at: Sequence[float | int] = (0.0, 0.0, 0.0), shade: float = 1.0) -> Piece:
    """A box of full sides x, y, z whose lower face is centred at `at`."""
    return Piece("box", (x / 2, y / 2, z / 2), (float(at[0]), float(at[1]), float(at[2] + z / 2)), shade=shade)


def _disc(radius: float, height: float, z: float = 0.0, shade: float = 1.0) -> Piece:
    return Piece("cylinder", (radius, height / 2), (0.0, 0.0, z + height / 2), shade=shade)


def _ring(radius: float, height: float, z: float, shade: float = 1.0) -> tuple[Piece, ...]:
    """A round wall of outer radius `radius`: boxes side by side."""
    middle = radius * np.cos(np.pi / RING_PIECES) - WALL_M / 2  # the corners of the boxes reach the radius
    width = 2 * radius * np.sin(np.pi / RING_PIECES)
    pieces = []
    for angle in np.arange(RING_PIECES) * 2 * np.pi / RING_PIECES:
        at = (float(middle * np.cos(angle)), float(middle * np.sin(angle)), z + height / 2)
        pieces.append(Piece("box", (WALL_M / 2, width / 2, height / 2), at, float(angle), shade))
    return tuple(pieces)


def _mug(scale: float, rng: np.random.Generator) -> tuple[Piece, ...]:
    radius, height = 0.04 * scale, 0.095 * scale * rng.uniform(0.9, 1.1)
    grip, out = 0.5 * height, 0.03 * scale
    handle = (
        _box(out, 0.012, 0.010, (radius + out / 2 - 0.004, 0, 0.25 * height), 0.9),
        _box(out, 0.012, 0.010, (radius + out / 2 - 0.004, 0, 0.25 * height + grip), 0.9),
        _box(0.010, 0.012, grip + 0.010, (radius + out - 0.004, 0, 0.25 * height), 0.9),
    )
    return (_disc(radius * 0.95, 0.008), *_ring(radius, height, 0.0), *handle)


def _bowl(scale: float, rng: np.random.Generator) -> tuple[Piece, ...]:
    radius, height = 0.075 * scale, 0.06 * scale * rng.uniform(0.85, 1.15)
    low = 0.4 * height
    return (_disc(0.72 * radius, 0.008), *_ring(0.76 * radius, low, 0.0, 0.85), *_ring(radius, height - low, low))


def _bottle(scale: float, rng: np.random.Generator) -> tuple[Piece, ...]:
    radius, height = 0.034 * scale, 0.22 * scale * rng.uniform(0.85, 1.15)
    body = 0.65 * height
    return (
        _disc(radius, body),
        _disc(0.6 * radius, 0.12 * height, body),
        _disc(0.4 * radius, 0.17 * height, 0.77 * height),
        _disc(0.48 * radius, 0.06 * height, 0.94 * height, 0.5),
    )


def _can(scale: float, rng: np.random.Generator) -> tuple[Piece, ...]:
    radius, height = 0.034 * scale, 0.115 * scale * rng.uniform(0.8, 1.15)
    return (_disc(radius, 0.92 * height), _disc(0.92 * radius, 0.08 * height, 0.92 * height, 1.3))


def _carton(scale: float, rng: np.random.Generator) -> tuple[Piece, ...]:
    x, y, z = scale * rng.uniform((0.08, 0.06, 0.05), (0.18, 0.13, 0.14))
    return (_box(x, y, z), _box(0.25 * x, y + 0.001, 0.4 * z, (0, 0, 0.3 * z), 0.75))


def _block(scale: float, rng: np.random.Generator) -> tuple[Piece, ...]:
    side = 0.05 * scale
    return (_box(side, side, side),)


def _book(scale: float, rng: np.random.Generator) -> tuple[Piece, ...]:
    x, y, z = scale * rng.uniform((0.16, 0.12, 0.02), (0.24, 0.17, 0.045))
    return (
        _box(x, y, 0.2 * z),
        _box(0.96 * x, 0.96 * y, 0.6 * z, (0, 0, 0.2 * z), 2.0),
        _box(x, y, 0.2 * z, (0, 0, 0.8 * z)),
    )


def _plate(scale: float, rng: np.random.Generator) -> tuple[Piece, ...]:
    radius = 0.105 * scale
    return (_disc(0.7 * radius, 0.006), _disc(radius, 0.010, 0.006))


def _tray(scale: float, rng: np.random.Generator) -> tuple[Piece, ...]:
    x, y = scale * rng.uniform((0.26, 0.18), (0.36, 0.26))
    return (_box(x, y, 0.014), _box(0.9 * x, 0.88 * y, 0.002, (0, 0, 0.014), 0.85))


def _basket(scale: float, rng: np.random.Generator) -> tuple[Piece, ...]:
    x, y, z = scale * rng.uniform((0.2, 0.15, 0.08), (0.28, 0.2, 0.12))
    wall = 0.008
    return (
        _box(x, y, wall, shade=0.8),
        _box(wall, y, z, ((x - wall) / 2, 0, 0)),
        _box(wall, y, z, (-(x - wall) / 2, 0, 0)),
        _box(x, wall, z, (0, (y - wall) / 2, 0), 0.9),
        _box(x, wall, z, (0, -(y - wall) / 2, 0), 0.9),
    )


def _jar(scale: float, rng: np.random.Generator) -> tuple[Piece, ...]:
    radius, height = 0.045 * scale, 0.12 * scale * rng.uniform(0.85, 1.15)
    return (_disc(radius, 0.85 * height), _disc(0.9 * radius, 0.15 * height, 0.85 * height, 0.45))


def _sponge(scale: float, rng: np.random.Generator) -> tuple[Piece, ...]:
    return (_box(0.1 * scale, 0.065 * scale, 0.022), _box(0.1 * scale, 0.065 * scale, 0.01, (0, 0, 0.022), 0.6))


WARES: Mapping[str, Ware] = MappingProxyType(
    {
        "mug": Ware(_mug, ("ceramic", "metal")),
        "bowl": Ware(_bowl, ("ceramic", "wooden", "plastic")),
        "bottle": Ware(_bottle, ("plastic", "glass")),
        "can": Ware(_can, ("metal",)),
        "box": Ware(_carton, ("cardboard", "wooden", "plastic"), carries=True),
        "block": Ware(_block, ("wooden", "plastic")),
        "book": Ware(_book, ("paper",), carries=True),
        "plate": Ware(_plate, ("ceramic", "plastic"), carries=True),
        "tray": Ware(_tray, ("wooden", "plastic", "metal"), carries=True),
        "basket": Ware(_basket, ("wicker", "plastic")),
        "jar": Ware(_jar, ("glass", "ceramic")),
        "sponge": Ware(_sponge, ("foam",), colors=("yellow", "green", "pink", "blue")),
    }
)

SHINE: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"ceramic": (0.5, 0.6), "metal": (0.9, 0.8), "glass": (0.9, 0.9), "plastic": (0.4, 0.4)}
)
"""Specular strength and shininess by material; all others are dull."""


def extent(pieces: tuple[Piece, ...]) -> tuple[Float64[np.ndarray, " 3"], Float64[np.ndarray, " 3"]]:
    """Lowest and highest coordinates of a thing in its own frame."""
    low, high = zip(*(piece.bounds() for piece in pieces), strict=True)
    return np.min(low, 0), np.max(high, 0)


def surface_points(pieces: tuple[Piece, ...], number: int, rng: np.random.Generator) -> Float64[np.ndarray, "N 3"]:
    """Points on the pieces' surfaces, in proportion to area, in the thing's frame."""
    areas = np.array([_area(piece) for piece in pieces])
    which = rng.choice(len(pieces), number, p=areas / areas.sum())
    return np.concatenate(
        [
            _on_surface(piece, int(count), rng)
            for piece, count in zip(pieces, np.bincount(which, minlength=len(pieces)), strict=True)
        ]
    )


def _area(piece: Piece) -> float:
    if piece.kind == "cylinder":
        radius, half = piece.size
        return float(2 * np.pi * radius * (radius + 2 * half))
    x, y, z = piece.size
    return 8 * (x * y + y * z + z * x)


def _on_surface(piece: Piece, number: int, rng: np.random.Generator) -> np.ndarray:
    if piece.kind == "cylinder":
        radius, half = piece.size
        cap = rng.random(number) < radius / (radius + 2 * half)
        angle, away = rng.uniform(0, 2 * np.pi, number), radius * np.where(cap, np.sqrt(rng.random(number)), 1.0)
        z = np.where(cap, half * rng.choice([-1.0, 1.0], number), rng.uniform(-half, half, number))
        local = np.stack([away * np.cos(angle), away * np.sin(angle), z], 1)
    else:
        sides = np.array(piece.size)
        faces = np.prod(sides) / sides
        axis = rng.choice(3, number, p=faces / faces.sum())
        local = rng.uniform(-1, 1, (number, 3))
        local[np.arange(number), axis] = rng.choice([-1.0, 1.0], number)
        local *= sides
    c, s = np.cos(piece.yaw), np.sin(piece.yaw)
    return local @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]) + piece.pos
