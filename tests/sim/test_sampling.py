import numpy as np
import pytest

from traceworld.sim.glue import traces_of
from traceworld.sim.sampling import sample_points

pytestmark = pytest.mark.render


def test_most_points_move_and_every_moving_part_has_some(film):
    frames = np.array([0, 5, 9])
    frame, pixel = sample_points(film, frames, 120, np.random.default_rng(0))
    assert len(frame) == 120
    assert set(frame) <= set(frames)
    traces = traces_of(film, frame, pixel)
    assert traces.valid.all()
    assert traces.moving.mean() == pytest.approx(0.7, abs=0.02)
    _, count = np.unique(traces.part_id[traces.moving], return_counts=True)
    assert len(count) >= 6  # arm links, both fingers, the drawer
    assert np.sort(count)[1] >= 4


def test_points_are_distinct_and_seeded(film):
    one = sample_points(film, np.array([0, 4]), 80, np.random.default_rng(3))
    two = sample_points(film, np.array([0, 4]), 80, np.random.default_rng(3))
    assert np.array_equal(one[0], two[0])
    assert np.array_equal(one[1], two[1])
    assert len({(f, *p) for f, p in zip(one[0].tolist(), one[1].tolist(), strict=True)}) == 80


def test_nothing_moves_gives_static_points(film):
    from dataclasses import replace

    frozen = replace(film, body_pose=np.repeat(film.body_pose[:1], film.num_frames, 0))
    frame, pixel = sample_points(frozen, np.array([0]), 60, np.random.default_rng(0))
    assert len(frame) == 60
    assert not traces_of(frozen, frame, pixel).moving.any()


def test_empty_sky_gives_no_points(film):
    from dataclasses import replace

    sky = replace(film, object_id=np.full_like(film.object_id, -1), depth_m=np.full_like(film.depth_m, np.nan))
    frame, pixel = sample_points(sky, np.array([0]), 60, np.random.default_rng(0))
    assert len(frame) == 0
    assert pixel.shape == (0, 2)
