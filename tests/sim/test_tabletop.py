"""Set tables: everything rests, nothing overlaps, boxes are exact, seeds decide; physics agrees."""

import numpy as np
import pytest

from traceworld.errors import ConfigError
from traceworld.sim.tabletop import TabletopConfig, set_table
from traceworld.sim.tableware import COLORS, WARES, Piece, extent, surface_points

SEEDS = range(12)


def rectangle(thing):
    center, size = thing.box()
    half = size[:2] / 2
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
    return center[:2] + corners @ thing.rotation()[:2, :2].T


def samples_inside(thing, number=400):
    """Points of a thing's box, drawn evenly."""
    center, size = thing.box()
    local = np.random.default_rng(0).uniform(-0.5, 0.5, (number, 3)) * size
    return center + local @ thing.rotation().T


def lies_in(thing, points):
    center, size = thing.box()
    return (np.abs((points - center) @ thing.rotation()) < size / 2 - 1e-9).all(1)


@pytest.mark.parametrize("seed", SEEDS)
def test_everything_rests_on_its_support(seed):
    table = set_table(seed)
    by_name = {thing.name: thing for thing in table.things}
    assert len(by_name) == len(table.things)
    for thing in table.things:
        if thing.label in ("floor", "shelf", "wall"):
            continue
        support = by_name[thing.support]
        assert thing.position[2] == pytest.approx(support.top_z(), abs=1e-9)
        center, size = support.box()
        local = (rectangle(thing) - center[:2]) @ support.rotation()[:2, :2]
        if thing.label not in ("table", "counter"):
            assert (np.abs(local) <= size[:2] / 2 + 1e-9).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_stands_in_anything(seed):
    things = [thing for thing in set_table(seed).things if thing.label != "floor"]
    for thing in things:
        points = samples_inside(thing)
        for other in things:
            if other.name != thing.name:
                assert not lies_in(other, points).any(), (thing.name, other.name)


def test_seeds_decide():
    assert [thing.name for thing in set_table(3).things] == [thing.name for thing in set_table(3).things]
    np.testing.assert_array_equal(set_table(3).things[-1].position, set_table(3).things[-1].position)
    assert len({tuple(thing.name for thing in set_table(seed).things) for seed in SEEDS}) > 8


def test_tables_differ_in_all_that_may_differ():
    tables = [set_table(seed) for seed in range(40)]
    labels = {thing.label for table in tables for thing in table.things}
    assert set(WARES) | {"floor", "table", "counter", "wall", "shelf", "stand", "partition"} <= labels
    things = [thing for table in tables for thing in table.things if thing.movable]
    assert {thing.attributes["colour"] for thing in things} == set(COLORS)
    assert {thing.attributes.get("size") for thing in things} == {"small", "large", None}
    several = [
        max(np.unique([one.label for one in table.things if one.movable], return_counts=True)[1]) for table in tables
    ]
    assert np.mean(np.array(several) > 1) > 0.7
    assert 4 < np.mean([sum(one.movable for one in table.things) for table in tables]) <= 12
    supports = {one.support.rsplit(" ", 1)[0] for one in things}
    assert {"table", "counter", "shelf", "stand"} <= supports
    assert supports & {"tray", "book", "box", "plate"}


def test_chances_and_labels_are_kept():
    bare = TabletopConfig(
        counter=0.0, wall=0.0, stand=0.0, side_table=0.0, stacked=0.0, partitions=0, labels=("mug", "can")
    )
    for seed in range(5):
        labels = {thing.label for thing in set_table(seed, bare).things}
        assert labels <= {"floor", "table", "mug", "can"}
    with pytest.raises(ConfigError, match="no such things"):
        TabletopConfig(labels=("dragon",))
    with pytest.raises(ConfigError):
        TabletopConfig(things=(5, 2))


@pytest.mark.parametrize("label", sorted(WARES))
def test_wares_stand_on_the_ground_and_their_box_is_tight(label):
    for seed in range(3):
        pieces = WARES[label].make(1.0, np.random.default_rng(seed))
        low, high = extent(pieces)
        assert low[2] == pytest.approx(0)
        points = surface_points(pieces, 6000, np.random.default_rng(0))
        assert (points >= low - 1e-9).all()
        assert (points <= high + 1e-9).all()
        np.testing.assert_allclose(points.min(0), low, atol=0.01)
        np.testing.assert_allclose(points.max(0), high, atol=0.01)


def test_surface_points_lie_on_surfaces_in_proportion_to_area():
    pieces = (Piece("cylinder", (0.1, 0.2), (0.0, 0.0, 0.2)), Piece("box", (0.1, 0.2, 0.3), (1.0, 0.0, 0.3), yaw=0.5))
    points = surface_points(pieces, 20000, np.random.default_rng(0))
    can, block = points[points[:, 0] < 0.5], points[points[:, 0] >= 0.5]
    areas = 2 * np.pi * 0.1 * (0.1 + 0.4), 8 * (0.02 + 0.06 + 0.03)
    assert len(can) / len(points) == pytest.approx(areas[0] / sum(areas), abs=0.01)
    side = np.isclose(np.hypot(can[:, 0], can[:, 1]), 0.1)
    cap = np.isclose(can[:, 2], 0) | np.isclose(can[:, 2], 0.4)
    assert (side | cap).all()
    assert cap.mean() == pytest.approx(0.1 / 0.5, abs=0.02)
    c, s = np.cos(0.5), np.sin(0.5)
    local = (block - [1.0, 0, 0.3]) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    np.testing.assert_allclose(np.max(np.abs(local) / [0.1, 0.2, 0.3], axis=1), 1, atol=1e-9)
