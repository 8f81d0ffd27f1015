"""DROID shards written by the tests, byte for byte as TFRecord and tf.train.Example are defined."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from traceworld.errors import ConfigError, DatasetError
from traceworld.traces.datasets.droid import CAMERAS, import_droid
from traceworld.traces.datasets.tf_records import crc32c, read_example, record_places
from traceworld.traces.media import read_frame
from traceworld.traces.store import open_dataset


def varint(value):
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def feature(values):
    if isinstance(values, np.ndarray) and values.dtype.kind == "f":
        return field(2, field(1, values.astype("<f4").tobytes()))
    if isinstance(values, np.ndarray):
        return field(3, field(1, b"".join(varint(int(v)) for v in values)))
    return field(1, b"".join(field(1, value) for value in values))


def example(features):
    return field(1, b"".join(field(1, field(1, k.encode()) + field(2, feature(v))) for k, v in features.items()))


def record(data):
    header = struct.pack("<Q", len(data))
    crc = crc32c(header)
    masked = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
    return header + struct.pack("<I", masked) + data + b"\0\0\0\0"


def jpeg(level, size=(32, 18)):
    out = io.BytesIO()
    Image.new("RGB", size, (level, level, level)).save(out, "JPEG", quality=95)
    return out.getvalue()


def episode(levels, words=("", "open the drawer", ""), **changes):
    features = {f"steps/observation/{camera}": [jpeg(level) for level in levels] for camera in CAMERAS}
    for suffix, text in zip(("", "_2", "_3"), words, strict=True):
        features[f"steps/language_instruction{suffix}"] = [b"", text.encode()] + [b""] * (len(levels) - 2)
    features["episode_metadata/file_path"] = [b"/r2d2/success/1/trajectory.h5"]
    features["steps/observation/joint_position"] = np.arange(7 * len(levels), dtype=np.float32)
    features["steps/is_last"] = np.array([0, -1, 1])
    return example(features | changes)


@pytest.fixture
def shards(tmp_path):
    folder = tmp_path / "droid" / "1.0.1"
    folder.mkdir(parents=True)
    (folder / "droid_101-train.tfrecord-00003-of-02048").write_bytes(
        record(episode([10, 60, 110])) + record(episode([200, 100], words=("", "", "")))
    )
    return tmp_path / "droid"


def test_the_checksum_is_castagnolis():
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA


def test_features_of_all_three_kinds(shards):
    path = next(shards.rglob("*.tfrecord-*"))
    places = list(record_places(path))
    assert len(places) == 2
    features = read_example(path, *places[0])
    np.testing.assert_array_equal(features["steps/observation/joint_position"], np.arange(21))
    np.testing.assert_array_equal(features["steps/is_last"], [0, -1, 1])
    assert features["episode_metadata/file_path"] == [b"/r2d2/success/1/trajectory.h5"]


def test_a_clip_per_episode_and_camera(shards, tmp_path):
    report = import_droid([shards], tmp_path / "out", cameras=CAMERAS[1:])
    assert (report.ok, report.failures) == (4, ())
    dataset = open_dataset(tmp_path / "out")
    clip = dataset.clip("droid_shard00003_ep000__exterior_image_2_left")
    assert (clip.num_frames, clip.task, clip.metric) == (3, "open the drawer", False)
    assert clip.time_s[1] == pytest.approx(1 / 15)
    assert abs(int(read_frame(clip, 1).mean()) - 60) <= 2
    assert clip.provenance["recording"].endswith("trajectory.h5")
    assert dataset.clip("droid_shard00003_ep001__wrist_image_left").task == ""
    assert import_droid([shards], tmp_path / "out", cameras=CAMERAS[1:]).done == 4
    assert import_droid([shards], tmp_path / "one", max_episodes=1).ok == 1
    with pytest.raises(ConfigError, match="front"):
        import_droid([shards], tmp_path / "out", cameras=["front"])
    with pytest.raises(DatasetError, match="tfrecord"):
        import_droid([tmp_path / "out"], tmp_path / "out2")


def test_damage_costs_what_it_hits(shards, tmp_path):
    folder = next(shards.rglob("*.tfrecord-*")).parent
    whole = record(episode([10, 60]))
    key = f"steps/observation/{CAMERAS[0]}"
    (folder / "d-train.tfrecord-00004-of-02048").write_bytes(whole + whole[:-100])
    (folder / "d-train.tfrecord-00005-of-02048").write_bytes(whole + b"\7" + whole[1:] + whole)
    (folder / "d-train.tfrecord-00006-of-02048").write_bytes(
        record(episode([1, 2], **{key: []}))
        + record(episode([1, 2], **{key: [jpeg(1), jpeg(2)[:200]]}))
        + record(episode([1, 2], **{key: [jpeg(1), jpeg(2, (16, 18))]}))
        + record(b"\xff" * 40)
        + whole
    )
    report = import_droid([shards], tmp_path / "out")
    assert report.ok == 2 + 1 + 1 + 1
    reasons = dict(report.failures)
    assert "cut off" in reasons["droid_shard00004_rest"]
    assert "damaged header" in reasons["droid_shard00005_rest"]
    assert "00006" in reasons["droid_shard00006_ep000__exterior_image_1_left"]
    assert f"[{key}]" in reasons["droid_shard00006_ep000__exterior_image_1_left"]
    assert "frame 1" in reasons["droid_shard00006_ep001__exterior_image_1_left"]
    assert "2 sizes" in reasons["droid_shard00006_ep002__exterior_image_1_left"]
    assert "no readable Example" in reasons["droid_shard00006_ep003__exterior_image_1_left"]
