import json
from dataclasses import replace

import av
import numpy as np
import pytest
from PIL import Image
from trace_clips import make_clip, picture, write_dataset

from traceworld.errors import DepthError, InvalidInputError, MediaError
from traceworld.perception.sources import open_source
from traceworld.traces import media
from traceworld.traces.media import (
    RgbdReader,
    frames_with_pictures,
    open_depth,
    read_depth,
    read_frame,
    register_media_reader,
    write_pictures,
)
from traceworld.traces.store import open_dataset
from traceworld.traces.types import Media
from traceworld.traces.video_frames import VideoFrames


@pytest.fixture(autouse=True)
def readers_of_this_room(monkeypatch):
    """`perception` puts its own reader of RGB-D folders in place when it is imported; here the plain one is tested."""
    monkeypatch.setattr(media, "_READERS", media._READERS | {"rgbd": RgbdReader()})


def near(image, frame):
    return np.abs(image.astype(int) - picture(frame).astype(int)).max() <= 6


# --- frames -----------------------------------------------------------------------------------------------------------


def test_stored_pictures_come_back(tmp_path):
    clip = open_dataset(write_dataset(tmp_path / "d", clips=1))[0]
    assert not clip.media.path.startswith("/")
    assert frames_with_pictures(clip) == [0, 10, 20, 30, 40, 50]
    for frame in (50, 0, 20):
        assert near(read_frame(clip, frame), frame)
        np.testing.assert_allclose(read_depth(clip, frame), 1 + frame / 100, atol=5e-4)
    moved = (tmp_path / "d").rename(tmp_path / "elsewhere")
    assert near(read_frame(open_dataset(moved)[0], 10), 10)


def test_depth_is_nan_where_unknown(tmp_path):
    depth = np.array([[np.nan, 0.0, -1.0, 0.001], [65.534, 65.535, np.inf, 2.0]], np.float32)
    stored = write_pictures(tmp_path, {0: picture(0, (4, 2))}, {0: depth})
    clip = make_clip(media=stored)
    assert stored.path == str(tmp_path)
    expected = np.array([[np.nan, np.nan, np.nan, 0.001], [65.534, np.nan, np.nan, 2.0]])
    np.testing.assert_allclose(read_depth(clip, 0), expected, atol=5e-4)
    assert read_depth(clip, 0).dtype == np.float32


def test_equal_pictures_equal_files(tmp_path):
    for name in ("a", "b"):
        write_pictures(tmp_path / name, {3: picture(3)}, {3: np.full((24, 32), 0.7)})
    for file in ("000003.jpg", "000003.png"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    with pytest.raises(InvalidInputError, match="other frames"):
        write_pictures(tmp_path, {3: picture(3)}, {4: np.zeros((24, 32))})


def test_frames_without_a_picture(tmp_path):
    clip = open_dataset(write_dataset(tmp_path / "d", clips=1, depth=False))[0]
    assert read_depth(clip, 10) is None
    with pytest.raises(InvalidInputError, match=r"frame 11: no picture"):
        read_frame(clip, 11)
    with pytest.raises(InvalidInputError, match="60 frames"):
        read_frame(clip, 60)
    bare = make_clip()
    assert frames_with_pictures(bare) == []
    with pytest.raises(InvalidInputError, match="without pictures"):
        read_frame(bare, 0)


def test_missing_and_damaged_pictures_are_named(tmp_path):
    folder = write_dataset(tmp_path / "d", clips=1)
    clip = open_dataset(folder)[0]
    pictures = folder / clip.media.path
    (pictures / "000010.jpg").unlink()
    (pictures / "000020.jpg").write_bytes((pictures / "000020.jpg").read_bytes()[:200])
    (pictures / "000020.png").write_bytes(b"no picture")
    for frame in (10, 20):
        with pytest.raises(MediaError, match=f"0000{frame}.jpg"):
            read_frame(clip, frame)
    with pytest.raises(DepthError, match=r"000020\.png"):
        read_depth(clip, 20)
    with pytest.raises(DepthError, match="no depth image"):
        open_depth(pictures / "000000.jpg", 0.001)


# --- RGB-D folders ----------------------------------------------------------------------------------------------------


def rgbd_folder(folder, frames=12, **about):
    for name in ("color", "depth"):
        (folder / name).mkdir(parents=True)
    for i in range(frames):
        Image.fromarray(picture(i)).save(folder / "color" / f"{i}.png")  # not padded: 10 comes after 9
        Image.fromarray(np.full((24, 32), 1000 + i, np.uint16)).save(folder / "depth" / f"{i}.png")
    (folder / "clip.json").write_text(json.dumps({"depth_unit_m": 0.001} | about))
    return make_clip(T=frames, media=Media("rgbd", str(folder)))


def test_rgbd_folders(tmp_path):
    clip = rgbd_folder(tmp_path / "a", depth_invalid=1003)
    assert frames_with_pictures(clip) == list(range(12))
    np.testing.assert_array_equal(read_frame(clip, 10), picture(10))
    np.testing.assert_allclose(read_depth(clip, 10), 1.010)
    assert np.isnan(read_depth(clip, 3)).all()
    assert read_depth(rgbd_folder(tmp_path / "b", depth_registered=False), 3) is None


def test_resampled_clips_say_which_frames_they_show(tmp_path):
    clip = rgbd_folder(tmp_path / "a")
    every_third = make_clip(T=4, media=clip.media, provenance={"source_frames": [0, 3, 6, 9]})
    np.testing.assert_array_equal(read_frame(every_third, 2), picture(6))
    beyond = make_clip(T=2, media=clip.media, provenance={"source_frames": [0, 12]})
    with pytest.raises(MediaError, match="has 12 frames; the clip needs frame 12"):
        read_frame(beyond, 1)


def test_broken_rgbd_folders_are_named(tmp_path):
    clip = rgbd_folder(tmp_path / "a")
    (tmp_path / "a" / "clip.json").write_text("{")
    with pytest.raises(MediaError, match="not an RGB-D folder"):
        read_frame(clip, 0)
    (tmp_path / "a" / "clip.json").unlink()
    with pytest.raises(MediaError, match=r"clip\.json"):
        read_frame(clip, 0)
    empty = rgbd_folder(tmp_path / "b", frames=0 + 1)
    (tmp_path / "b" / "color" / "0.png").unlink()
    with pytest.raises(MediaError, match="no colour pictures"):
        read_frame(empty, 0)


# --- videos -----------------------------------------------------------------------------------------------------------


def level(number):
    """Grey level that says which frame a picture is: 8 apart, so that compression cannot confuse two."""
    return 16 + 8 * (number % 28)


def encode(path, frames=40, first_pts=0, gop=12, stamps=None, b_frames=2):
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.options = {"g": str(gop), "bf": str(b_frames), "crf": "12"}
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), level(i), np.uint8), format="rgb24")
            frame.pts = (stamps[i] if stamps else i) + first_pts
            for packet in stream.encode(frame):
                out.mux(packet)
        for packet in stream.encode():
            out.mux(packet)
    return path


def shown(clip, frame):
    return round(float(read_frame(clip, frame).mean()))


@pytest.mark.parametrize(
    "options", [{}, {"first_pts": 45}, {"b_frames": 0}, {"stamps": [i + i // 7 for i in range(40)]}]
)
@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_video_frames_are_counted_right(tmp_path, options, container):
    clip = make_clip(T=40, media=Media("video", str(encode(tmp_path / f"v.{container}", **options))))
    assert frames_with_pictures(clip) == list(range(40))
    order = [0, 1, 2, 30, 31, 5, 39, 0, 12, 11, 24, *range(40)]
    for frame in order:
        assert abs(shown(clip, frame) - level(frame)) <= 3, frame
    assert read_depth(clip, 0) is None
    assert read_frame(clip, 3).shape == (48, 64, 3)


def encode_as(path, codec, pixels="yuv420p", form=None, frames=40):
    with av.open(str(path), "w", format=form) as out:
        stream = out.add_stream(codec, rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), level(i), np.uint8), format="rgb24")
            frame.pts = i
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def without_its_start(path, cut, packets):
    """The stream from a packet in the middle of a group of pictures on."""
    with av.open(str(path)) as source, av.open(str(cut), "w") as out:
        stream = source.streams.video[0]
        copy = out.add_stream_from_template(stream)
        for number, packet in enumerate(source.demux(stream)):
            if number >= packets and packet.dts is not None:
                packet.stream = copy
                out.mux(packet)
    return cut


@pytest.mark.parametrize("kind", ["avi", "mkv", "gif", "raw", "cut"])
def test_frames_have_the_numbers_that_extraction_gave_them(tmp_path, kind):
    path = {
        "avi": lambda: encode_as(tmp_path / "v.avi", "mpeg4"),
        "mkv": lambda: encode_as(tmp_path / "v.mkv", "mjpeg", "yuvj420p"),
        "gif": lambda: encode_as(tmp_path / "v.gif", "gif", "rgb8"),
        "raw": lambda: encode_as(tmp_path / "v.h264", "libx264", form="h264"),  # no time stamps at all
        "cut": lambda: without_its_start(encode(tmp_path / "w.ts"), tmp_path / "v.ts", 5),
    }[kind]()
    streamed = [frame.image for frame in open_source(path)]
    video = VideoFrames(path)
    assert len(video) == len(streamed) == (28 if kind == "cut" else 40)
    for number in (0, 20, 3, 27, 26, 2, 4, len(video) - 1):
        np.testing.assert_array_equal(video.read(number), streamed[number])
    with pytest.raises(MediaError, match=f"not frame {len(video)}"):
        video.read(len(video))


def test_an_index_that_leads_too_far_is_not_trusted(tmp_path, monkeypatch):
    video = VideoFrames(encode(tmp_path / "v.mp4"))
    seek = VideoFrames._seek

    def too_far(self, stamp):
        seek(self, None if stamp is None else int(self._stamps[-1]))

    monkeypatch.setattr(VideoFrames, "_seek", too_far)
    assert abs(video.read(7).mean() - level(7)) <= 3


def test_a_sound_file_is_no_video(tmp_path):
    with av.open(str(tmp_path / "a.wav"), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.rate = 8000
        out.mux(stream.encode(frame))
    with pytest.raises(MediaError, match="no video"):
        VideoFrames(tmp_path / "a.wav")


def test_a_resampled_video_and_one_that_lost_its_end(tmp_path):
    path = encode(tmp_path / "v.mp4", frames=20)
    clip = make_clip(T=5, media=Media("video", str(path)), provenance={"source_frames": [0, 4, 8, 12, 16]})
    assert abs(shown(clip, 3) - level(12)) <= 3
    with pytest.raises(MediaError, match=r"v\.mp4: has 20 frames; the clip needs frame 25"):
        read_frame(make_clip(T=30, media=clip.media), 25)


def test_a_replaced_video_is_read_anew(tmp_path):
    clip = make_clip(T=5, media=Media("video", str(encode(tmp_path / "v.mp4", frames=20))))
    assert abs(shown(clip, 2) - level(2)) <= 3
    encode(tmp_path / "v.mp4", frames=30, stamps=list(range(30)))
    assert abs(shown(clip, 4) - level(4)) <= 3


def test_what_is_no_video(tmp_path):
    clip = make_clip(media=Media("video", str(tmp_path / "v.mp4")))
    with pytest.raises(MediaError, match=r"v\.mp4"):
        read_frame(clip, 0)
    (tmp_path / "v.mp4").write_bytes(b"not a video at all" * 50)
    with pytest.raises(MediaError, match=r"v\.mp4"):
        read_frame(clip, 0)
    whole = encode(tmp_path / "w.mp4").read_bytes()
    (tmp_path / "w.mp4").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MediaError, match=r"w\.mp4"):
        read_frame(make_clip(media=Media("video", str(tmp_path / "w.mp4"))), 0)


# --- third parties ----------------------------------------------------------------------------------------------------


def test_a_kind_can_be_read_by_another_reader():
    class Black:
        def frames(self, clip):
            return [0]

        def image(self, clip, frame):
            return np.zeros((2, 2, 3), np.uint8)

        def depth(self, clip, frame):
            return None

    register_media_reader("rgbd", Black())
    clip = replace(make_clip(), media=Media("rgbd", "x"))
    assert frames_with_pictures(clip) == [0]
    assert read_frame(clip, 0).shape == (2, 2, 3)
