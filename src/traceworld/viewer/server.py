"""A live view in the browser (viser): cameras, the scene as points, traces, a time slider, play, and the clips of a store."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from traceworld.errors import ConfigError, InvalidInputError, TraceworldError
from traceworld.extras import require
from traceworld.geometry import cameras as cam
from traceworld.traces.media import frames_with_pictures, read_depth, read_frame
from traceworld.traces.store import open_dataset
from traceworld.traces.types import Clip
from traceworld.viewer.overlay import overlay_clip, time_colours
from traceworld.viewer.scene import cloud_from_depth

log = logging.getLogger(__name__)

_STILL = (154, 164, 178)


def view(
    source: Path | str | Clip | Sequence[Clip], port: int = 8080, host: str = "127.0.0.1", *, clip_id: str | None = None
) -> ClipServer:
    """Serve a clip store, one clip or a few, and return at once.

    Args:
        source: folder of a clip store, or clips in memory.
        port: where to listen; if it is taken the next free one is used (`ClipServer.port` says which).
        host: `127.0.0.1` is reachable from this machine only; `0.0.0.0` from everywhere.
        clip_id: the clip to show first (default: the first).

    Raises:
        MissingExtraError: viser is not installed.
        DatasetError: `source` is not a clip store.
        InvalidInputError: there is no clip in it.
        ConfigError: there is no clip of that name.
    """
    names, read = _clips(source)
    if not names:
        raise InvalidInputError("holds no clip", where=str(source) if isinstance(source, str | Path) else "clips")
    if clip_id is not None and clip_id not in names:
        known = ", ".join(names[:5]) + (" …" if len(names) > 5 else "")
        raise ConfigError(f"no clip '{clip_id}'", where="clip_id", mend=f"one of: {known}")
    viser = require("viser")
    server = viser.ViserServer(host=host, port=port, label="traceworld", verbose=False)
    return ClipServer(server, names, read, clip_id or names[0])


def _clips(source: Path | str | Clip | Sequence[Clip]) -> tuple[list[str], Callable[[str], Clip]]:
    # Importing it makes RGB-D folders readable with their depth registered to the colour camera (perception.clip_media).
    import traceworld.perception.sources  # noqa: F401

    if isinstance(source, str | Path):
        dataset = open_dataset(source)
        return list(dataset.clip_ids), dataset.clip
    clips = [source] if isinstance(source, Clip) else list(source)
    by_name = {clip.clip_id: clip for clip in clips}
    return list(by_name), by_name.__getitem__


class ClipServer:
    """A running viewer. `stop()` ends it, `wait()` blocks until then; `url`, `port`; `server` is viser's own."""

    def __init__(self, server: Any, names: Sequence[str], read: Callable[[str], Clip], first: str):
        self.server = server
        self._read = read
        self._lock = threading.RLock()  # callbacks come from several threads; one of them draws at a time
        self._stopped = threading.Event()
        self._nodes: dict[str, Any] = {}
        self.clip = read(first)
        server.scene.set_up_direction("-y")  # OpenCV axes: y points down
        self._build_controls(names, first)
        self._load()
        self._player = threading.Thread(target=self._play, name="traceworld-viewer-play", daemon=True)
        self._player.start()

    @property
    def port(self) -> int:
        return int(self.server.get_port())

    @property
    def url(self) -> str:
        return f"http://{self.server.get_host()}:{self.port}"

    @property
    def frame(self) -> int:
        """The frame that is shown."""
        return int(self.time.value)

    def wait(self) -> None:
        """Block until `stop()` (or Ctrl-C)."""
        self._stopped.wait()

    def stop(self) -> None:
        """End playing, close the connections and free the port."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        self._player.join(timeout=5)
        self.server.stop()

    def __enter__(self) -> ClipServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def show_clip(self, name: str) -> None:
        """Show another clip of the store, from its first frame."""
        clip = self._read(name)
        with self._lock:
            self.clip = clip
            self._load()

    def show_frame(self, frame: int) -> None:
        """Move to a frame (cut to the clip's length)."""
        self.time.value = int(np.clip(frame, 0, self.clip.num_frames - 1))  # its on_update draws

    # ------------------------------------------------------------------ controls

    def _build_controls(self, names: Sequence[str], first: str) -> None:
        gui = self.server.gui
        self.choice = gui.add_dropdown("Clip", tuple(names), initial_value=first)
        self.words = gui.add_markdown("")
        last = max(1, self.clip.num_frames - 1)
        self.time = gui.add_slider("Frame", min=0, max=last, step=1, initial_value=0)
        self.playing = gui.add_checkbox("Play", False)
        self.speed = gui.add_slider("Speed", min=0.1, max=4.0, step=0.1, initial_value=1.0)
        self.tail = gui.add_slider("Tail, frames", min=1, max=120, step=1, initial_value=30)
        self.show_static = gui.add_checkbox("Points at rest", True)
        self.show_cloud = gui.add_checkbox("Scene as points", True)
        self.show_camera = gui.add_checkbox("Camera", True)
        self.picture = gui.add_image(np.zeros((9, 16, 3), np.uint8), label="Picture")
        self.choice.on_update(lambda _: self.show_clip(self.choice.value))
        for control in (self.time, self.tail, self.show_static, self.show_cloud, self.show_camera):
            control.on_update(lambda _: self._draw())

    def _play(self) -> None:
        while not self._stopped.is_set():
            if not self.playing.value or self.clip.num_frames < 2:
                self._stopped.wait(0.05)
                continue
            times, now = self.clip.time_s, self.frame
            following = (now + 1) % self.clip.num_frames
            gap = float(times[following] - times[now]) if following else 0.5  # half a second before it starts anew
            if not self._stopped.wait(max(0.02, gap / float(self.speed.value))):
                self.show_frame(following)

    # ------------------------------------------------------------------ drawing

    def _load(self) -> None:
        with self._lock:
            clip = self.clip
            self._pictures = self._frames_with_pictures()
            self.time.value = 0
            self.time.max = max(1, clip.num_frames - 1)
            self.words.content = _description(clip)
            for name in list(self._nodes):
                self._nodes.pop(name).remove()
            self._scale = _scene_size(clip)
            cloud = self._cloud()
            if cloud is not None:
                self._nodes["cloud"] = self.server.scene.add_point_cloud(
                    "/cloud", cloud[0], cloud[1], point_size=self._scale * 0.003, point_shape="circle"
                )
            self._aim()
            self._draw()

    def _frames_with_pictures(self) -> np.ndarray:
        try:
            return np.asarray(frames_with_pictures(self.clip), int)
        except TraceworldError as error:
            log.warning("clip %s is shown without pictures: %s", self.clip.clip_id, error)
            return np.zeros(0, int)

    def _cloud(self) -> tuple[Float[np.ndarray, "M 3"], UInt8[np.ndarray, "M 3"]] | None:
        if not len(self._pictures):
            return None
        frame = int(self._pictures[0])
        try:
            depth = read_depth(self.clip, frame)
            if depth is None:
                return None
            return cloud_from_depth(read_frame(self.clip, frame), depth, self.clip.cameras[frame], max_points=60000)
        except TraceworldError as error:
            log.warning("clip %s is shown without its scene: %s", self.clip.clip_id, error)
            return None

    def _aim(self) -> None:
        """Every browser starts a little behind the recording camera, looking where the traces are."""
        eye = np.linalg.inv(self.clip.cameras[0].cam_from_world)
        middle = _middle(self.clip)
        aside = (
            0.3 * eye[:3, 0] - 0.3 * eye[:3, 1]
        )  # to the right and above, so that the camera itself is not in the way
        back = eye[:3, 3] + 0.1 * (middle - eye[:3, 3]) + self._scale * aside
        start = self.server.initial_camera
        start.position, start.look_at, start.up = tuple(back), tuple(middle), tuple(-eye[:3, 1])
        for client in self.server.get_clients().values():
            client.camera.position, client.camera.look_at = back, middle

    def _draw(self) -> None:
        with self._lock:
            frame = min(self.frame, self.clip.num_frames - 1)
            traces = self.clip.traces
            with self.server.atomic():
                self._points("/moving", frame, traces.moving, (240, 228, 66))
                rest = ~traces.moving if self.show_static.value else np.zeros_like(traces.moving)
                self._points("/rest", frame, rest, _STILL)
                self._tails(frame)
                self._camera(frame)
                if "cloud" in self._nodes:
                    self._nodes["cloud"].visible = self.show_cloud.value
            self._show_picture(frame)

    def _replace(self, name: str, make: Callable[[], Any] | None) -> None:
        old = self._nodes.pop(name, None)
        if make is not None:
            self._nodes[name] = make()  # the same name takes the place of the old node in the browser
        elif old is not None:
            old.remove()

    def _points(self, name: str, frame: int, which: np.ndarray, colour: tuple[int, int, int]) -> None:
        """Points of one frame; hidden ones are darker."""
        traces = self.clip.traces
        keep = np.flatnonzero(which & traces.valid[frame])
        if not len(keep):
            self._replace(name, None)
            return
        bright = np.where(traces.visible[frame, keep, None], 1.0, 0.45)
        colours = (bright * np.array(colour)).astype(np.uint8)
        size = self._scale * (0.008 if name == "/moving" else 0.005)
        self._replace(
            name,
            lambda: self.server.scene.add_point_cloud(
                name, traces.xyz_world[frame, keep], colours, point_size=size, point_shape="circle", precision="float32"
            ),
        )

    def _tails(self, frame: int) -> None:
        traces = self.clip.traces
        first = max(0, frame - int(self.tail.value))
        xyz = traces.xyz_world[first : frame + 1, traces.moving]
        known = traces.valid[first : frame + 1, traces.moving]
        pieces = np.argwhere(known[:-1] & known[1:])
        if not len(pieces):
            self._replace("/tails", None)
            return
        t, n = pieces.T
        segments = np.stack([xyz[t, n], xyz[t + 1, n]], 1)
        ramp = time_colours(len(xyz))
        colours = np.stack([ramp[t], ramp[t + 1]], 1)
        self._replace(
            "/tails",
            lambda: self.server.scene.add_line_segments(
                "/tails", segments, colours, thickness=2.5, thickness_units="screen"
            ),
        )

    def _camera(self, frame: int) -> None:
        if not self.show_camera.value:
            self._replace("/camera", None)
            return
        camera = self.clip.cameras[frame]
        world_from_cam = cam.invert_rigid(camera.cam_from_world)
        fov = 2 * np.arctan2(camera.height / 2, camera.K[1, 1])
        self._replace(
            "/camera",
            lambda: self.server.scene.add_camera_frustum(
                "/camera",
                fov=float(fov),
                aspect=camera.width / camera.height,
                scale=self._scale * 0.06,
                thickness=1.5,
                thickness_units="screen",
                color=(91, 63, 214),
                wxyz=_quaternion(world_from_cam[:3, :3]),
                position=world_from_cam[:3, 3],
            ),
        )

    def _show_picture(self, frame: int) -> None:
        if not len(self._pictures):
            self.picture.visible = False
            return
        nearest = int(self._pictures[np.abs(self._pictures - frame).argmin()])
        try:
            image = read_frame(self.clip, nearest)
        except TraceworldError as error:
            log.warning("frame %d of clip %s cannot be shown: %s", nearest, self.clip.clip_id, error)
            self.picture.visible = False
            return
        self.picture.visible = True
        self.picture.image = overlay_clip(image, self.clip, nearest, tail=int(self.tail.value), width=480)


def _description(clip: Clip) -> str:
    moving = int(clip.traces.moving.sum())
    lines = [
        f"**{clip.task or 'no instruction'}**",
        f"{clip.num_frames} frames · {clip.time_s[-1] - clip.time_s[0]:.1f} s · {clip.traces.num_keypoints} points, "
        f"{moving} moving · {'metres' if clip.metric else 'scale unknown'}",
    ]
    lines += [f"- {e.start}–{e.end - 1}: {e.caption}" for e in clip.events[:12]]
    return "\n\n".join(lines[:2]) + ("\n\n" + "\n".join(lines[2:]) if len(lines) > 2 else "")


def _middle(clip: Clip) -> np.ndarray:
    traces = clip.traces
    for keep in (traces.valid & traces.moving, traces.valid):
        if keep.any():
            return np.median(traces.xyz_world[keep].astype(np.float64), axis=0)
    return np.linalg.inv(clip.cameras[0].cam_from_world) @ np.array([0, 0, 1.0, 1.0]) @ np.eye(4, 3)


def _scene_size(clip: Clip) -> float:
    """The distance from the first camera to what it looks at: the measure for every size on the screen."""
    eye = np.linalg.inv(clip.cameras[0].cam_from_world)[:3, 3]
    return max(float(np.linalg.norm(_middle(clip) - eye)), 1e-3)


def _quaternion(rotation: np.ndarray) -> np.ndarray:
    from scipy.spatial.transform import Rotation

    x, y, z, w = Rotation.from_matrix(rotation).as_quat()
    return np.array([w, x, y, z])
