"""Tables and kitchen counters set from a seed: what stands where, in which colour and size. No physics, no pictures (`tabletop_photo`).

World frame: metres, z up, the floor at 0; the table's front is towards −y. Everything rests: lower faces lie exactly on the
surface that carries them, and no two outlines overlap.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64

from traceworld.errors import ConfigError
from traceworld.sim.tableware import COLORS, WARES, Color, Piece, extent

SMALL, LARGE = 0.88, 1.15
"""Scale factors below and above which a thing is called small or large."""

EDGE_M = 0.02
PLACE_TRIES = 25


@dataclass(frozen=True)
class TabletopConfig:
    """What may be set.

    Attributes:
        things: fewest and most movable things.
        kinds: fewest and most classes they are drawn from (few classes: several of one).
        gap_m: least gap between two outlines.
        counter, wall, shelf, stand, side_table, stacked: chances of a counter instead of a table, a wall behind it, a shelf on
            the wall, a raised stand on it, a second table beside it, and of each thing to be put on top of another.
        partitions: at most so many upright boards stand in the way.
        labels: classes to draw from; () for all.
    """

    things: tuple[int, int] = (6, 12)
    kinds: tuple[int, int] = (3, 6)
    gap_m: float = 0.025
    counter: float = 0.4
    wall: float = 0.6
    shelf: float = 0.4
    stand: float = 0.4
    side_table: float = 0.3
    stacked: float = 0.1
    partitions: int = 2
    labels: tuple[str, ...] = ()

    def __post_init__(self):
        unknown = set(self.labels) - set(WARES)
        if unknown:
            raise ConfigError(
                f"no such things: {sorted(unknown)}", where="TabletopConfig.labels", mend=f"of {sorted(WARES)}"
            )
        if not (1 <= self.things[0] <= self.things[1] and 1 <= self.kinds[0] <= self.kinds[1]):
            raise ConfigError(f"impossible {self}", where="TabletopConfig")


@dataclass(frozen=True, eq=False)
class TableThing:
    """One thing in its place.

    Attributes:
        name: unique, e.g. `mug 2`.
        label: its class.
        attributes: `colour`, and where they apply `material`, `size` (small or large).
        pieces: shapes in its own frame, standing on z = 0.
        position, yaw: world place of that frame's origin, and turn about the vertical.
        rgb: base colour.
        movable, support: whether it can be picked up, and the name of what carries it.
    """

    name: str
    label: str
    attributes: Mapping[str, str]
    pieces: tuple[Piece, ...]
    position: Float64[np.ndarray, " 3"]
    yaw: float
    rgb: Color
    movable: bool
    support: str | None

    def rotation(self) -> Float64[np.ndarray, "3 3"]:
        """world_from_thing."""
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])

    def box(self) -> tuple[Float64[np.ndarray, " 3"], Float64[np.ndarray, " 3"]]:
        """Centre in the world and full side lengths of its exact box; the axes are the columns of `rotation`."""
        low, high = extent(self.pieces)
        return self.position + self.rotation() @ ((low + high) / 2), high - low

    def top_z(self) -> float:
        return float(self.position[2] + extent(self.pieces)[1][2])


@dataclass(frozen=True, eq=False)
class Tabletop:
    """A set table. `things` start with floor, tables and the like; `table` names the main one."""

    seed: int
    things: tuple[TableThing, ...]
    table: str


@dataclass(eq=False)
class _Setting:
    """A table while it is being set: its things, and of each the outline [4,2] seen from above, the bottom and the top."""

    rng: np.random.Generator
    config: TabletopConfig
    things: list[TableThing] = field(default_factory=list)
    taken: list[tuple[np.ndarray, float, float]] = field(default_factory=list)

    def add(self, label: str, pieces: tuple[Piece, ...], position: np.ndarray, **more: object) -> TableThing:
        """Put something in its place; `more` are the other fields of `TableThing`."""
        number = sum(thing.label == label for thing in self.things) + 1
        values: dict = {"attributes": {}, "yaw": 0.0, "rgb": _drab(self.rng), "movable": False, "support": None, **more}
        thing = TableThing(f"{label} {number}", label, pieces=pieces, position=np.asarray(position, float), **values)
        low, high = extent(pieces)
        self.things.append(thing)
        outline = _outline(low, high, thing.position[:2], thing.yaw)
        self.taken.append((outline, float(position[2] + low[2]), float(position[2] + high[2])))
        return thing

    def clear(self, outline: np.ndarray, bottom: float, top: float) -> bool:
        """Whether nothing stands within an outline and its gap, or hangs low above it."""
        return not any(
            low < top + 0.02 and high > bottom + 1e-6 and _outlines_meet(outline, other, self.config.gap_m)
            for other, low, high in self.taken
        )


def set_table(seed: int, config: TabletopConfig = TabletopConfig()) -> Tabletop:
    """A table with things on it; the same seed and config give the same one."""
    setting = _Setting(np.random.default_rng([seed, 0x7AB1E]), config)
    carriers = _furnish(setting)
    table = carriers[0]
    _set_partitions(setting, table)
    _set_things(setting, carriers)
    return Tabletop(seed, tuple(setting.things), table.name)


def _drab(rng: np.random.Generator) -> Color:
    """A wall's or a table's colour: light or wooden, not strong."""
    base = np.array([(0.82, 0.80, 0.76), (0.62, 0.45, 0.28), (0.45, 0.33, 0.22), (0.7, 0.72, 0.74), (0.35, 0.36, 0.38)])
    r, g, b = np.clip(base[rng.integers(len(base))] + rng.uniform(-0.08, 0.08, 3), 0.05, 0.95).tolist()
    return r, g, b


def _named_color(rng: np.random.Generator, names: tuple[str, ...]) -> tuple[str, Color]:
    name = str(rng.choice(names or tuple(COLORS)))
    r, g, b = np.clip(np.array(COLORS[name]) + rng.uniform(-0.04, 0.04, 3), 0.02, 0.98).tolist()
    return name, (r, g, b)


def _slab(x: float, y: float, z: float, low: float = 0.0, at: tuple[float, float] = (0.0, 0.0)) -> Piece:
    return Piece("box", (x / 2, y / 2, z / 2), (float(at[0]), float(at[1]), low + z / 2))


def _table_pieces(x: float, y: float, height: float, solid: bool) -> tuple[Piece, ...]:
    if solid:
        return (_slab(x, y, height - 0.03), _slab(x + 0.02, y + 0.02, 0.03, height - 0.03))
    legs = [
        _slab(0.05, 0.05, height - 0.035, at=(sx * (x / 2 - 0.06), sy * (y / 2 - 0.06)))
        for sx in (-1, 1)
        for sy in (-1, 1)
    ]
    return (_slab(x, y, 0.035, height - 0.035), *legs)


def _furnish(setting: _Setting) -> list[TableThing]:
    """Floor, table, wall, shelf, stand, side table; returns what things can stand on, the main table first."""
    rng, config = setting.rng, setting.config
    floor = setting.add("floor", (_slab(6.0, 6.0, 0.1),), np.array([0, 0, -0.1]))
    width, depth, height = rng.uniform((0.9, 0.6, 0.68), (1.4, 0.9, 0.85))
    solid = rng.random() < config.counter
    label = "counter" if solid else "table"
    table = setting.add(label, _table_pieces(width, depth, height, solid), np.zeros(3), support=floor.name)
    carriers = [table]
    has_wall = rng.random() < config.wall
    if has_wall:
        setting.add("wall", (_slab(4.0, 0.08, 2.2),), np.array([0, depth / 2 + 0.06, 0]), support=floor.name)
        if rng.random() < config.shelf:
            long, deep = rng.uniform(0.4, 0.75) * width, rng.uniform(0.16, 0.24)
            x = rng.uniform(-1, 1) * (width - long) / 2
            at = np.array([x, depth / 2 + 0.02 - deep / 2, height + rng.uniform(0.26, 0.4)])
            carriers.append(setting.add("shelf", (_slab(long, deep, 0.022),), at))
    if rng.random() < config.side_table:
        side, wide = float(rng.choice([-1.0, 1.0])), rng.uniform(0.35, 0.55)
        at = np.array([side * (width / 2 + wide / 2 + rng.uniform(0.04, 0.12)), rng.uniform(-0.1, 0.05), 0])
        low = height + float(rng.choice([-1.0, 1.0])) * rng.uniform(0.06, 0.15)
        carriers.append(setting.add("table", _table_pieces(wide, 0.5, low, False), at, support=floor.name))
    if rng.random() < config.stand:
        x, y, z = rng.uniform((0.22, 0.16, 0.05), (0.36, 0.26, 0.13))
        stand = _try_place(setting, "stand", (_slab(x, y, z),), table, {"rgb": _drab(rng)})
        if stand is not None:
            carriers.append(stand)
    return carriers


def _set_partitions(setting: _Setting, table: TableThing) -> None:
    rng = setting.rng
    for _ in range(int(rng.integers(setting.config.partitions + 1))):
        long, thick, high = rng.uniform((0.16, 0.012, 0.12), (0.38, 0.025, 0.3))
        name, rgb = _named_color(rng, ())
        looks = {"attributes": {"colour": name, "material": "wooden"}, "rgb": rgb}
        _try_place(setting, "partition", (_slab(long, thick, high),), table, looks)


def _set_things(setting: _Setting, carriers: list[TableThing]) -> None:
    rng, config = setting.rng, setting.config
    labels = np.array(config.labels or tuple(WARES))
    kinds = rng.choice(labels, min(int(rng.integers(config.kinds[0], config.kinds[1] + 1)), len(labels)), replace=False)
    area = np.array([np.prod((extent(one.pieces)[1] - extent(one.pieces)[0])[:2]) for one in carriers])
    for _ in range(int(rng.integers(config.things[0], config.things[1] + 1))):
        label = str(rng.choice(kinds))
        ware = WARES[label]
        scale = float(rng.uniform(0.72, 1.32))
        color, rgb = _named_color(rng, ware.colors)
        attributes = {"colour": color, "material": str(rng.choice(ware.materials))}
        if not SMALL <= scale <= LARGE:
            attributes["size"] = "small" if scale < SMALL else "large"
        hosts = [thing for thing in setting.things if thing.movable and WARES[thing.label].carries]
        if hosts and rng.random() < config.stacked:
            carrier = hosts[int(rng.integers(len(hosts)))]
        else:
            carrier = carriers[int(rng.choice(len(carriers), p=area / area.sum()))]
        looks = {"attributes": attributes, "rgb": rgb, "movable": True}
        _try_place(setting, label, ware.make(scale, rng), carrier, looks)


def _try_place(
    setting: _Setting, label: str, pieces: tuple[Piece, ...], carrier: TableThing, looks: dict
) -> TableThing | None:
    """Somewhere on a carrier, turned any way; None (and nothing placed) when no place is found."""
    low, high = extent(carrier.pieces)
    own_low, own_high = extent(pieces)
    edge = min(EDGE_M, 0.05 * float((high - low)[:2].min()))
    turn, base = carrier.rotation()[:2, :2], carrier.top_z()
    for _ in range(PLACE_TRIES):
        xy = carrier.position[:2] + turn @ setting.rng.uniform(low[:2], high[:2])
        yaw = float(setting.rng.uniform(-np.pi, np.pi))
        outline = _outline(own_low, own_high, xy, yaw)
        local = (outline - carrier.position[:2]) @ turn
        if (local < low[:2] + edge).any() or (local > high[:2] - edge).any():
            continue
        if setting.clear(outline, base, base + float(own_high[2])):
            return setting.add(label, pieces, np.append(xy, base), yaw=yaw, support=carrier.name, **looks)
    return None


def _outline(low: np.ndarray, high: np.ndarray, xy: np.ndarray, yaw: float) -> np.ndarray:
    """[4,2] world corners of a box with the given extent in its own frame, seen from above, in order around."""
    corners = np.array([[low[0], low[1]], [high[0], low[1]], [high[0], high[1]], [low[0], high[1]]])
    c, s = np.cos(yaw), np.sin(yaw)
    return xy + corners @ np.array([[c, s], [-s, c]])


def _outlines_meet(one: np.ndarray, other: np.ndarray, gap: float) -> bool:
    """Whether two rectangles come nearer than a gap along every edge direction of either."""
    for rectangle in (one, other):
        for edge in (rectangle[1] - rectangle[0], rectangle[3] - rectangle[0]):
            axis = edge / np.linalg.norm(edge)
            a, b = one @ axis, other @ axis
            if a.max() + gap <= b.min() or b.max() + gap <= a.min():
                return False
    return True
