"""The live viewer over a real socket: it serves its page, follows the slider, changes clips, and lets go of the port."""

import dataclasses
import socket
import time
import urllib.request

import numpy as np
import pytest
import viewer_scenes as made
from PIL import Image

from traceworld.errors import ConfigError, DatasetError, InvalidInputError
from traceworld.traces.types import Cameras, Clip, Media, Traces
from traceworld.traces.writer import DatasetWriter
from traceworld.viewer import server as viewers

pytest.importorskip("viser", reason="the viewer extra is not installed")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def soon(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def with_pictures(clip, folder):
    """The clip with pictures of three of its frames, the first with depth."""
    names, depths = [], []
    for frame in (0, 10, 30):
        Image.fromarray(made.picture(frame)).save(folder / f"{frame:02d}.png")
        Image.fromarray(np.full((made.HEIGHT, made.WIDTH), 1300, np.uint16)).save(folder / f"{frame:02d}d.png")
        names.append(f"{frame:02d}.png")
        depths.append(f"{frame:02d}d.png")
    media = Media("frames", str(folder), (0, 10, 30), tuple(names), tuple(depths), 0.001)
    return dataclasses.replace(clip, media=media)


@pytest.fixture
def store(tmp_path):
    (tmp_path / "pictures").mkdir()
    writer = DatasetWriter(tmp_path / "clips", source="made up")
    writer.write_item("one", [with_pictures(made.clip_of(), tmp_path / "pictures")])
    second = dataclasses.replace(made.clip_of(num_frames=12, moving=3), clip_id="short", task="")
    writer.write_item("two", [second])
    writer.finalise()
    return tmp_path / "clips"


def test_a_store_is_served_on_the_port_asked_for_and_left_free(store):
    port = free_port()
    with viewers.view(store, port=port) as viewer:
        assert viewer.port == port
        assert viewer.url == f"http://127.0.0.1:{port}"
        page = urllib.request.urlopen(viewer.url, timeout=10).read()
        assert b"<html" in page[:500].lower()
        assert viewer.choice.options == ("sliding-box", "short")
        assert {"cloud", "/moving", "/rest", "/camera"} <= set(viewer._nodes)
    with socket.socket() as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # the page's closed connection may linger; a listener may not
        probe.bind(("127.0.0.1", port))


def test_the_nodes_follow_the_slider(store):
    with viewers.view(store, port=free_port()) as viewer:
        clip = viewer.clip
        viewer.show_frame(20)
        assert soon(lambda: "/tails" in viewer._nodes)
        np.testing.assert_allclose(viewer._nodes["/moving"].points, clip.traces.xyz_world[20, clip.traces.moving])
        assert viewer._nodes["/tails"].points.shape == (6 * 20, 2, 3)
        colours = viewer._nodes["/moving"].colors
        assert colours[0].sum() < colours[1].sum()  # the hidden point is darker
        assert viewer.picture.image.shape[1] == 480
        viewer.show_frame(10_000)
        assert viewer.frame == 39
        viewer.show_static.value = False
        assert soon(lambda: "/rest" not in viewer._nodes)
        viewer.show_camera.value = False
        assert soon(lambda: "/camera" not in viewer._nodes)


def test_another_clip_can_be_chosen_and_has_its_own_length(store):
    with viewers.view(store, port=free_port(), clip_id="short") as viewer:
        assert viewer.clip.clip_id == "short"
        assert "cloud" not in viewer._nodes  # it has no pictures
        assert viewer.time.max == 11
        viewer.choice.value = "sliding-box"
        assert soon(lambda: viewer.clip.clip_id == "sliding-box" and viewer.time.max == 39)
        assert soon(lambda: "cloud" in viewer._nodes)
        assert "slide the box" in viewer.words.content
        viewer.show_frame(39)
        viewer.choice.value = "short"
        assert soon(lambda: viewer.clip.clip_id == "short" and viewer.frame == 0)


def test_play_advances_by_the_clips_clock_and_starts_anew(store):
    with viewers.view(store, port=free_port(), clip_id="short") as viewer:
        viewer.speed.value = 4.0
        viewer.show_frame(9)
        viewer.playing.value = True
        assert soon(lambda: viewer.frame == 11)
        assert soon(lambda: viewer.frame <= 3)
        viewer.playing.value = False
        time.sleep(0.3)
        before = viewer.frame
        time.sleep(0.3)
        assert viewer.frame == before


def test_a_client_gets_the_scene_and_the_controls_over_the_websocket(store):
    websockets = pytest.importorskip("websockets.sync.client")
    zstandard = pytest.importorskip("zstandard")
    version = pytest.importorskip("viser").__version__
    with (
        viewers.view(store, port=free_port()) as viewer,
        websockets.connect(
            f"ws://127.0.0.1:{viewer.port}", subprotocols=[f"viser-v{version}"], max_size=None
        ) as client,
    ):
        told = b""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and not (b"/moving" in told and b"sliding-box" in told):
            message = client.recv(timeout=10)
            start = message.index(b"\x28\xb5\x2f\xfd")  # where the zstandard frame begins
            told += zstandard.ZstdDecompressor().decompressobj().decompress(message[start:])
        for name in (b"/moving", b"/rest", b"/camera", b"/cloud", b"sliding-box", b"short"):
            assert name in told


def test_clips_in_memory_one_frame_and_no_points_are_shown_too():
    single = Clip("one", np.zeros(1), Cameras.still(made.K, 160, 120, 1), Traces.empty(1))
    with viewers.view(single, port=free_port()) as viewer:
        assert viewer.frame == 0
        assert "/moving" not in viewer._nodes
        assert not viewer.picture.visible


def test_missing_pictures_are_no_end(tmp_path):
    (tmp_path / "p").mkdir()
    clip = with_pictures(made.clip_of(), tmp_path / "p")
    (tmp_path / "p" / "00.png").unlink()
    with viewers.view(clip, port=free_port()) as viewer:
        assert "cloud" not in viewer._nodes
        assert "/moving" in viewer._nodes


def test_what_is_no_store_or_no_clip_is_named(tmp_path, store):
    with pytest.raises(DatasetError):
        viewers.view(tmp_path / "nothing", port=free_port())
    with pytest.raises(ConfigError, match="no clip 'nobody'"):
        viewers.view(store, port=free_port(), clip_id="nobody")
    with pytest.raises(InvalidInputError, match="no clip"):
        viewers.view([], port=free_port())
