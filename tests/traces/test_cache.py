import multiprocessing
import pickle

import numpy as np
import pytest
from trace_clips import EVENTS, assert_same_clip, make_clip, swaying_poses, write_dataset

from traceworld.errors import DatasetError
from traceworld.traces.cache import fingerprint
from traceworld.traces.store import open_dataset
from traceworld.traces.writer import DatasetWriter


@pytest.fixture
def mixed(tmp_path):
    """Clips of different lengths and numbers of points, none among them."""
    writer = DatasetWriter(tmp_path / "d")
    writer.write_item("x", [make_clip("a", events=EVENTS, unknown=0.2), make_clip("b", T=7, N=0)])
    writer.write_item("y", [make_clip("c", T=31, N=5, poses=swaying_poses(31), task="go", metric=False)])
    writer.write_item("z", [make_clip("d", provenance={"source_frames": list(range(0, 120, 2)), "other": 1})])
    writer.finalise()
    return open_dataset(tmp_path / "d")


def test_the_memory_map_equals_the_parquet(mixed):
    cache = mixed.cache()
    assert cache.clip_ids == mixed.clip_ids
    assert len(list(cache)) == len(cache) == 4
    for mapped, stored in zip(cache, mixed, strict=True):
        assert_same_clip(mapped, stored)
        assert mapped.root == stored.root
    assert cache[-1] is cache[len(cache) - 1]
    with pytest.raises(IndexError):
        cache[4]


def test_it_really_is_a_map(mixed):
    traces = mixed.cache()[0].traces
    assert isinstance(traces.xyz_world.base, np.ndarray)
    assert not traces.xyz_world.flags.owndata
    assert not traces.xyz_world.flags.writeable


def test_it_is_built_once_and_again_when_the_shards_change(mixed):
    cache = mixed.cache()
    written = (cache.folder / "xyz_world.npy").stat().st_mtime_ns
    assert open_dataset(mixed.path).cache(build=False).folder == cache.folder
    assert (cache.folder / "xyz_world.npy").stat().st_mtime_ns == written
    DatasetWriter(mixed.path).write_item("new", [make_clip("new")])
    grown = open_dataset(mixed.path)
    assert fingerprint(grown) != fingerprint(mixed)
    with pytest.raises(DatasetError, match="out of date"):
        grown.cache(build=False)
    assert len(grown.cache()) == 5
    assert [entry.name for entry in (mixed.path / "cache").iterdir()] == [fingerprint(grown)]
    np.testing.assert_array_equal(cache[0].traces.valid, mixed[0].traces.valid)  # who has it mapped keeps it


def test_it_may_live_elsewhere(mixed, tmp_path):
    other = mixed.cache(folder=tmp_path / "fast disk")
    assert other.folder.parent == tmp_path / "fast disk"
    assert not (mixed.path / "cache").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="folder="):
        mixed.cache(folder=tmp_path / "file" / "x")


def test_an_empty_dataset_has_an_empty_cache(tmp_path):
    DatasetWriter(tmp_path / "d").finalise()
    cache = open_dataset(tmp_path / "d").cache()
    assert len(cache) == 0
    assert cache.arrays["xyz_world"].shape == (0, 3)


def test_a_damaged_file_is_named(mixed):
    folder = mixed.cache().folder
    (folder / "valid.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(DatasetError, match=r"valid\.npy"):
        mixed.cache()
    (folder / "valid.npy").unlink()
    with pytest.raises(DatasetError, match=r"valid\.npy"):
        mixed.cache()


def test_a_damaged_shard_does_not_become_a_cache(mixed):
    whole = bytearray(mixed.shards[0].read_bytes())
    whole[300:500] = bytes(200)
    mixed.shards[0].write_bytes(whole)
    with pytest.raises(DatasetError, match=mixed.shards[0].name):
        open_dataset(mixed.path).cache()
    assert list((mixed.path / "cache").iterdir()) == []


def test_other_processes_get_names_not_arrays(mixed):
    sent = pickle.dumps(mixed.cache())
    assert len(sent) < 500
    assert_same_clip(pickle.loads(sent)[0], mixed.cache()[0])


def _build(path):
    open_dataset(path).cache()


def test_builders_at_the_same_time(tmp_path):
    folder = write_dataset(tmp_path / "d", clips=4)
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_build, args=(folder,)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    dataset = open_dataset(folder)
    assert [entry.name for entry in (folder / "cache").iterdir()] == [fingerprint(dataset)]
    assert_same_clip(dataset.cache()[3], dataset[3])
