"""Entities: motion first, one identity through time."""

from __future__ import annotations

import numpy as np

from traceworld.perception.entities import EntityFinder, Piece, cluster_cells, cut_pieces, match_scores

H, W = 30, 40


def scene(positions, moving=True, colours=(6.0,)):
    """Features with one square per colour at each (row, column), on a plain background; and the motion mask."""
    features = np.zeros((len(positions), H, W, 3), np.float32)
    motion = np.zeros((len(positions), H, W), bool)
    for t, (r, c) in enumerate(positions):
        for i, colour in enumerate(colours):
            features[t, r : r + 6, c + 6 * i : c + 6 * i + 6, 0] = colour
            motion[t, r : r + 6, c + 6 * i : c + 6 * i + 6] = moving
    features += np.random.default_rng(0).normal(0, 0.02, features.shape).astype(np.float32)
    return features, motion


def test_one_object_keeps_one_identity():
    maps = EntityFinder().find(*scene([(5, 4), (6, 7), (7, 10), (8, 13)]))
    ids = {int(maps.labels[t, 7 + t, 6 + 3 * t]) for t in range(4)}
    assert len(ids) == 1
    assert ids <= maps.moving
    entity = ids.pop()
    assert maps.coverage()[entity] >= 4 * 30
    assert maps.labels[0, 25, 35] != entity


def test_identity_goes_on_in_the_next_chunk():
    finder = EntityFinder()
    first = finder.find(*scene([(5, 4), (6, 7)]))
    second = finder.find(*scene([(7, 9), (8, 11)]))
    assert second.labels[1, 10, 13] == first.labels[0, 7, 6]


def test_two_colours_moving_together_are_two_entities():
    maps = EntityFinder().find(*scene([(5, 4), (6, 6)], colours=(6.0, -6.0)))
    a, b = maps.labels[0, 7, 6], maps.labels[0, 7, 12]
    assert a >= 0
    assert b >= 0
    assert a != b


def test_an_object_that_rests_later_stays_the_moving_one():
    features, motion = scene([(5, 4), (5, 4), (5, 4)])
    motion[1:] = False
    maps = EntityFinder().find(features, motion)
    assert maps.labels[2, 7, 6] == maps.labels[0, 7, 6]
    assert int(maps.labels[2, 7, 6]) in maps.moving


def test_nothing_moves():
    maps = EntityFinder().find(*scene([(5, 4), (5, 4)], moving=False))
    assert not maps.moving
    assert maps.labels[0, 7, 6] >= 0  # still an entity by its looks
    assert maps.labels[0, 25, 35] == -1


def test_motion_without_displacement_is_a_shadow():
    features, motion = scene([(5, 4)], colours=(6.0, -6.0))
    displaced = np.zeros_like(motion)
    displaced[0, 5:11, 4:10] = True  # the first square has left its place, the second only changed its looks
    maps = EntityFinder().find(features, motion, displaced)
    assert int(maps.labels[0, 7, 6]) in maps.moving
    assert int(maps.labels[0, 7, 12]) not in maps.moving


def test_match_needs_both_looks_and_place():
    mask, other = np.zeros((H, W), bool), np.zeros((H, W), bool)
    mask[:5, :5], other[20:25, 20:25] = True, True
    here = Piece(mask, np.zeros(3), True)
    assert match_scores([here], [here])[0, 0] == 1.0
    assert match_scores([here], [Piece(other, np.zeros(3), True)])[0, 0] == 0.5
    assert match_scores([here], [Piece(mask, np.full(3, 20.0), True)])[0, 0] == 0.0


def test_clusters_mean_the_same_in_every_frame():
    features, _ = scene([(5, 4), (20, 30)])
    clusters = cluster_cells(features, 2, seed=0)
    assert clusters[0, 7, 6] == clusters[1, 22, 32]
    assert clusters[0, 7, 6] != clusters[0, 25, 35]
    np.testing.assert_array_equal(clusters, cluster_cells(features, 2, seed=0))


def test_pieces_do_not_overlap():
    features, motion = scene([(5, 4)], colours=(6.0, -6.0))
    pieces = cut_pieces(cluster_cells(features, 3, 0)[0], features[0], motion[0])
    assert np.max(np.sum([piece.mask for piece in pieces], axis=0)) == 1
