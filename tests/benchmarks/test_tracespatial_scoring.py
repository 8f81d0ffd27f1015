"""The plain scoring and ours give the same flags and figures, and a miss is a miss."""

import dataclasses

import numpy as np
import pytest
import tracespatial_plain
from tracespatial_scoring import Options, make_bench, measure

from traceworld.evaluation.tracespatial.cloud import object_cloud
from traceworld.evaluation.tracespatial.occupancy import occupied_voxels

SMALL = Options(answers=3, plain=3, scenes=3, width=128)


@pytest.fixture(scope="module")
def made():
    return make_bench(SMALL)


def test_the_same_flags_and_figures():
    found = measure(SMALL)
    assert found["flags_agree"]
    assert found["figures_apart"] < 1e-5
    assert found["plain_answers"] == 3
    assert set(found["ratio"]) == {"strict", "compat"}


def test_the_same_cloud_and_voxels(made):
    bench, answers = made
    question = answers[0].question
    mask, depth = (bench.picture(question, kind) for kind in ("mask", "gt_depth"))
    ours, plain = (
        object_cloud(mask, depth, question.K, published=True),
        tracespatial_plain.object_cloud(mask, depth, question.K),
    )
    np.testing.assert_allclose(sorted(map(tuple, ours)), sorted(map(tuple, plain)), atol=1e-12)
    metres = np.where(mask == 255, 0, depth) / 1000
    found = occupied_voxels(metres, question.K)
    cells, origin = tracespatial_plain.occupancy(metres, question.K)
    np.testing.assert_allclose(found.origin, origin, atol=1e-4)
    ours_cells = {tuple(cell) for cell in np.argwhere(found.grid)}
    assert len(ours_cells ^ cells) < 0.02 * len(cells)


def test_scenes_are_the_same_for_a_seed(made):
    again = make_bench(SMALL)
    other = make_bench(dataclasses.replace(SMALL, seed=1))
    assert [answer.prediction for answer in made[1]] == [answer.prediction for answer in again[1]]
    assert made[1][0].prediction != other[1][0].prediction
