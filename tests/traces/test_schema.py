import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from trace_clips import EVENTS, assert_same_clip, make_clip, swaying_poses

from traceworld.errors import DatasetError, FormatVersionError, InvalidInputError
from traceworld.traces.schema import SCHEMA, Shard, check_version, write_shard
from traceworld.traces.types import Cameras, Clip, Media, Traces

FORMAT_PAGE = Path(__file__).parents[2] / "docs" / "format.md"


def round_trip(tmp_path, *clips):
    write_shard(tmp_path / "a.parquet", clips)
    shard = Shard(tmp_path / "a.parquet")
    return [shard.clip(row, tmp_path) for row in range(len(shard))]


def test_clips_come_back_exactly(tmp_path):
    clips = [
        make_clip("static", events=EVENTS, task="öffne 开", unknown=0.2, provenance={"seed": 3, "b": [1.5, None]}),
        make_clip("moving", T=17, N=5, poses=swaying_poses(17), metric=False, media=Media("video", "a/b.mp4")),
        make_clip("frames", media=Media("frames", "media/x", (0, 7), ("0.jpg", "7.jpg"), ("0.png", "7.png"), 0.0005)),
        make_clip("no points", N=0),
        make_clip("one frame", T=1, N=2),
    ]
    back = round_trip(tmp_path, *clips)
    assert len(back) == len(clips)
    for one, other in zip(clips, back, strict=True):
        assert_same_clip(one, other)
        assert other.root == tmp_path


def test_a_zooming_camera_keeps_every_K(tmp_path):
    K = np.repeat(make_clip().cameras.K[:1], 9, 0)
    K[:, 0, 0] += np.arange(9)
    clip = make_clip(T=9)
    clip = Clip("zoom", clip.time_s, Cameras(K, clip.cameras.cam_from_world, 640, 480), clip.traces)
    assert_same_clip(clip, round_trip(tmp_path, clip)[0])


def test_constant_cameras_are_stored_once(tmp_path):
    write_shard(tmp_path / "a.parquet", [make_clip(T=50), make_clip("b", T=50, poses=swaying_poses(50))])
    table = pq.read_table(tmp_path / "a.parquet")
    assert [len(row) for row in table["K"].to_pylist()] == [9, 9]
    assert [len(row) for row in table["cam_from_world"].to_pylist()] == [16, 50 * 16]


def test_a_row_group_per_clip_with_the_stated_encodings(tmp_path):
    write_shard(tmp_path / "a.parquet", [make_clip("a"), make_clip("b"), make_clip("c")])
    metadata = pq.ParquetFile(tmp_path / "a.parquet").metadata
    assert metadata.num_row_groups == metadata.num_rows == 3
    columns = [metadata.row_group(0).column(i) for i in range(metadata.num_columns)]
    encodings = {column.path_in_schema: column.encodings for column in columns}
    assert "BYTE_STREAM_SPLIT" in encodings["xyz_world.list.element"]
    assert {column.compression for column in columns} == {"ZSTD"}
    raw = make_clip("a", T=200, N=64).traces
    write_shard(tmp_path / "b.parquet", [make_clip("a", T=200, N=64)])
    assert (tmp_path / "b.parquet").stat().st_size < raw.xyz_world.nbytes + raw.valid.nbytes


def test_same_clips_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_shard(
            tmp_path / name, [make_clip("x", events=EVENTS, provenance={"b": 1, "a": 2}), make_clip("y", seed=2)]
        )
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_provenance_is_made_json(tmp_path):
    mixed = {
        "path": Path("/x"),
        "score": np.float32(0.5),
        "bad": float("nan"),
        "list": (1, np.int64(2)),
        "flag": np.True_,
    }
    back = round_trip(tmp_path, make_clip(provenance=mixed))[0].provenance
    assert back == {"path": "/x", "score": 0.5, "bad": None, "list": [1, 2], "flag": True}
    with pytest.raises(InvalidInputError, match=r"clip\.provenance"):
        write_shard(tmp_path / "b.parquet", [make_clip(provenance={"x": object()})])


def test_a_truncated_shard_is_named(tmp_path):
    write_shard(tmp_path / "a.parquet", [make_clip()])
    whole = (tmp_path / "a.parquet").read_bytes()
    for size in (0, 3, len(whole) // 2, len(whole) - 5):
        (tmp_path / "cut.parquet").write_bytes(whole[:size])
        with pytest.raises(DatasetError, match=r"cut\.parquet"):
            Shard(tmp_path / "cut.parquet").clip(0, tmp_path)
    with pytest.raises(DatasetError, match=r"absent\.parquet"):
        Shard(tmp_path / "absent.parquet")


def test_flipped_bytes_are_found(tmp_path):
    clip = make_clip(T=100, N=40)
    write_shard(tmp_path / "a.parquet", [clip])
    whole = bytearray((tmp_path / "a.parquet").read_bytes())
    body = pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(0).column(10)  # xyz_world
    rng = np.random.default_rng(0)
    for place in rng.integers(body.data_page_offset + 64, body.data_page_offset + body.total_compressed_size, 20):
        damaged = bytearray(whole)
        damaged[place] ^= 0x5A
        (tmp_path / "bad.parquet").write_bytes(damaged)
        with pytest.raises(DatasetError, match=r"bad\.parquet"):
            Shard(tmp_path / "bad.parquet").clip(0, tmp_path)


def rewritten(path, **columns):
    """The shard with some columns replaced, metadata kept."""
    table = pq.read_table(path)
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, SCHEMA.field(name), pa.array(values, SCHEMA.field(name).type))
    pq.write_table(table, path)


def test_nan_marked_valid_is_refused(tmp_path):
    clip = make_clip(T=4, N=2)
    write_shard(tmp_path / "a.parquet", [clip])
    xyz = clip.traces.xyz_world.copy()
    xyz[2, 1] = np.nan
    rewritten(tmp_path / "a.parquet", xyz_world=[xyz.ravel().tolist()])
    with pytest.raises(DatasetError, match=r"a\.parquet.*NaN"):
        Shard(tmp_path / "a.parquet").clip(0, tmp_path)


def test_arrays_of_the_wrong_length_are_refused(tmp_path):
    write_shard(tmp_path / "a.parquet", [make_clip(T=4, N=2)])
    rewritten(tmp_path / "a.parquet", moving=[[True]])
    with pytest.raises(DatasetError, match=r"a\.parquet"):
        Shard(tmp_path / "a.parquet").clip(0, tmp_path)


def test_versions():
    assert check_version(1, "x") == check_version(b"1", "x") == 1
    with pytest.raises(
        FormatVersionError, match=r"x: has format version 2; this traceworld reads versions up to 1 .*pip"
    ):
        check_version(2, "x")
    for nonsense in (None, "one", 0, -1):
        with pytest.raises(DatasetError, match="no format version"):
            check_version(nonsense, "x")


def test_a_newer_shard_is_refused(tmp_path):
    write_shard(tmp_path / "a.parquet", [make_clip()])
    table = pq.read_table(tmp_path / "a.parquet").replace_schema_metadata({b"traceworld.format_version": b"7"})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(FormatVersionError, match="version 7"):
        Shard(tmp_path / "a.parquet")


def test_the_format_page_lists_every_column():
    rows = re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", FORMAT_PAGE.read_text(), re.MULTILINE)
    documented = dict(rows)
    for field in SCHEMA:
        expected = (
            "struct"
            if str(field.type).startswith("struct")
            else str(field.type).replace("element: ", "").replace("item: ", "")
        )
        expected = "list<struct>" if expected.startswith("list<struct") else expected
        assert documented.get(field.name) == expected, field.name


def test_the_example_of_the_format_page_reads_a_shard(tmp_path):
    clip = make_clip("c", T=7, N=3, unknown=0.3, task="push", provenance={"seed": 1})
    (tmp_path / "clips").mkdir()
    write_shard(tmp_path / "clips" / "one.parquet", [make_clip("other"), clip])
    example = re.search(r"```python\n(import.*?)```", FORMAT_PAGE.read_text(), re.DOTALL).group(1)
    assert "traceworld" not in example
    names = {}
    exec(example.replace("my-dataset", str(tmp_path)), names)
    traces = Traces(
        names["xyz_world"], names["visible"], names["valid"], names["part_id"], names["moving"], names["query_frame"]
    )
    np.testing.assert_array_equal(traces.xyz_world, clip.traces.xyz_world)
    np.testing.assert_array_equal(traces.valid, clip.traces.valid)
    np.testing.assert_array_equal(names["K"], clip.cameras.K)
    np.testing.assert_array_equal(names["cam_from_world"], clip.cameras.cam_from_world)
    assert json.loads(names["clip"]["provenance"]) == {"seed": 1}
