"""Pictures, exact depth and object identity of a MuJoCo scene, for any pinhole camera.

`mujoco.Renderer` renders colour, depth and segmentation in three passes and casts shadows; most of its time goes into
multisampling and shadow maps (measured at 640×480 on one core: 141 ms with both, 21 ms without). Here one pass gives
depth and identity together, and colour is antialiased by rendering at twice the size and averaging, without shadows
and reflections. Nothing is flipped: row 0 is the top of the picture.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float32, Int32, UInt8

from traceworld.errors import InvalidInputError, MissingExtraError, RenderingError, TraceworldError
from traceworld.extras import require
from traceworld.traces.types import Camera

EGL_MEND = "on Debian or Ubuntu: apt-get install -y libegl1 libgl1"
MAX_GEOMS = 2000


def load_mujoco() -> ModuleType:
    """Import MuJoCo with a renderer that needs no screen (EGL), unless `MUJOCO_GL` or a display says otherwise.

    Raises:
        MissingExtraError: the extra `sim` is not installed.
        RenderingError: the renderer's system libraries are missing.
    """
    headless = not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    if sys.platform.startswith("linux") and headless:
        os.environ.setdefault("MUJOCO_GL", "egl")
    return _import("mujoco")


def _context_class() -> Any:
    """The class of OpenGL contexts that `MUJOCO_GL` asks for. (MuJoCo itself decides once, when first imported, which
    may have been before the variable was set.)"""
    mujoco, backend = load_mujoco(), os.environ.get("MUJOCO_GL", "").lower()
    return _import(f"mujoco.{backend}").GLContext if backend in ("egl", "osmesa") else mujoco.GLContext


def _import(name: str) -> ModuleType:
    try:
        return require(name)
    except MissingExtraError as error:
        if importlib.util.find_spec("mujoco") is None:
            raise
        raise _rendering_error(error.__cause__ or error) from error  # installed: it is the renderer that is missing
    except (
        AttributeError,
        OSError,
        RuntimeError,
    ) as error:  # other ways in which PyOpenGL says that there is no libEGL
        raise _rendering_error(error) from error


def _rendering_error(error: BaseException) -> RenderingError:
    backend = os.environ.get("MUJOCO_GL", "the default")
    return RenderingError(
        f"cannot render with MUJOCO_GL={backend}: {type(error).__name__}: {error}",
        where="MuJoCo",
        mend=f"{EGL_MEND}; then MUJOCO_GL=egl",
    )


@dataclass(frozen=True)
class Surfaces:
    """What each pixel sees.

    Attributes:
        depth_m: [H,W] exact metres along the camera axis; NaN where there is nothing.
        object_id: [H,W] geom id, or number of geoms + site id; −1 where there is nothing.
    """

    depth_m: Float32[np.ndarray, "H W"]
    object_id: Int32[np.ndarray, "H W"]


class SceneRenderer:
    """Renders one model from any camera. Close it, or use it in a `with` statement.

    Args:
        model: a `mujoco.MjModel`; its geometry is uploaded once, here.
        width, height: largest image that will be asked for, in pixels.
        shadows: cast shadows and reflections (four times slower).
        supersample: colour is rendered this many times larger in each direction and averaged.
    """

    def __init__(self, model: Any, width: int, height: int, *, shadows: bool = False, supersample: int = 2):
        self._mujoco = mujoco = load_mujoco()
        self._model, self._supersample = model, supersample
        self._gl: Any = None
        self._context: Any = None
        self._largest = (width, height)
        model.vis.global_.offwidth = width * supersample
        model.vis.global_.offheight = height * supersample
        model.vis.quality.offsamples = 0  # multisampling would also blur depth and identity at silhouettes
        try:
            self._gl = _context_class()(width * supersample, height * supersample)
            self._gl.make_current()
            self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        except TraceworldError:
            raise
        except Exception as error:  # EGL reports a missing driver by several kinds of exception
            self.close()
            raise _rendering_error(error) from error
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        self._context.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR.value
        self._scene = mujoco.MjvScene(model, MAX_GEOMS)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = shadows
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = shadows
        self._option, self._perturb, self._free = mujoco.MjvOption(), mujoco.MjvPerturb(), mujoco.MjvCamera()
        self._free.type = mujoco.mjtCamera.mjCAMERA_FREE
        extent = model.stat.extent
        self._near, self._far = model.vis.map.znear * extent, model.vis.map.zfar * extent

    def close(self) -> None:
        """Free the context now: left to the interpreter's exit, EGL prints errors."""
        if self._context is not None:
            self._gl.make_current()
            self._context.free()
        if self._gl is not None:
            self._gl.free()
        self._context = self._gl = None

    def __enter__(self) -> SceneRenderer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def upload_textures(self, textures: Iterable[int]) -> None:
        """Give the renderer textures of the model that were painted anew."""
        self._gl.make_current()
        for texture in textures:
            self._mujoco.mjr_uploadTexture(self._model, self._context, texture)

    def color(self, data: Any, camera: Camera) -> UInt8[np.ndarray, "H W 3"]:
        """The picture, RGB."""
        self._aim(data, camera)
        rect = self._mujoco.MjrRect(0, 0, camera.width * self._supersample, camera.height * self._supersample)
        pixels = np.empty((rect.height, rect.width, 3), np.uint8)
        self._mujoco.mjr_render(rect, self._scene, self._context)
        self._mujoco.mjr_readPixels(pixels, None, rect, self._context)
        pixels = np.ascontiguousarray(pixels[::-1])
        if self._supersample == 1:
            return pixels
        return cv2.resize(pixels, (camera.width, camera.height), interpolation=cv2.INTER_AREA)

    def surfaces(self, data: Any, camera: Camera) -> Surfaces:
        """Exact depth and identity of what each pixel's centre sees."""
        self._aim(data, camera)
        flags, mujoco = self._scene.flags, self._mujoco
        kept = flags.copy()
        flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = 1
        rect = mujoco.MjrRect(0, 0, camera.width, camera.height)
        code = np.empty((rect.height, rect.width, 3), np.uint8)
        depth = np.empty((rect.height, rect.width), np.float32)
        mujoco.mjr_render(rect, self._scene, self._context)
        mujoco.mjr_readPixels(code, depth, rect, self._context)
        np.copyto(flags, kept)
        segment = code[::-1].astype(np.int32) @ np.array([1, 1 << 8, 1 << 16], np.int32)
        object_id = self._objects()[segment]
        return Surfaces(np.where(object_id >= 0, self._metres(depth[::-1]), np.float32(np.nan)), object_id)

    def _metres(self, buffer: np.ndarray) -> np.ndarray:
        """Window depth in [0, 1], 1 near and 0 far, to metres along the camera axis."""
        near, far = float(self._near), float(self._far)
        return (near * far / (near + buffer.astype(np.float64) * (far - near))).astype(np.float32)

    def _objects(self) -> np.ndarray:
        """Which object each segment number of the scene stands for; number 0 is the background."""
        kinds = self._mujoco.mjtObj
        objects = np.full(self._scene.ngeom + 1, -1, np.int32)
        for geom in self._scene.geoms[: self._scene.ngeom]:
            if geom.segid >= 0 and geom.objtype == kinds.mjOBJ_GEOM:
                objects[geom.segid + 1] = geom.objid
            elif geom.segid >= 0 and geom.objtype == kinds.mjOBJ_SITE:
                objects[geom.segid + 1] = self._model.ngeom + geom.objid
        return objects

    def _aim(self, data: Any, camera: Camera) -> None:
        """Lay the scene out and point its camera: exactly K and cam_from_world, whatever they are."""
        if camera.width > self._largest[0] or camera.height > self._largest[1]:
            raise InvalidInputError(
                f"{camera.width}×{camera.height} is larger than {self._largest[0]}×{self._largest[1]}",
                where="SceneRenderer",
                mend="make the renderer for the largest picture",
            )
        self._gl.make_current()
        rotation = camera.cam_from_world[:3, :3]
        position = -rotation.T @ camera.cam_from_world[:3, 3]
        _, down, forward = rotation
        free = self._free  # an approximate free camera first: the headlight and the drawing order depend on it
        free.distance = 1.0
        free.lookat[:] = position + forward
        free.azimuth = np.degrees(np.arctan2(forward[1], forward[0]))
        free.elevation = np.degrees(np.arcsin(np.clip(forward[2], -1, 1)))
        everything = self._mujoco.mjtCatBit.mjCAT_ALL.value
        self._mujoco.mjv_updateScene(self._model, data, self._option, self._perturb, free, everything, self._scene)
        K, near = camera.K, self._near
        left, right_ = -near * (K[0, 2] + 0.5) / K[0, 0], near * (camera.width - 0.5 - K[0, 2]) / K[0, 0]
        for view in self._scene.camera:
            view.pos[:], view.forward[:], view.up[:] = position, forward, -down
            view.frustum_center, view.frustum_width = (left + right_) / 2, (right_ - left) / 2
            view.frustum_top = near * (K[1, 2] + 0.5) / K[1, 1]
            view.frustum_bottom = -near * (camera.height - 0.5 - K[1, 2]) / K[1, 1]
            view.frustum_near, view.frustum_far = near, self._far
