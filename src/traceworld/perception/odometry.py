"""Where the camera is: nothing if it does not move, else keyframe PnP on the still part of an RGB-D scene."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from traceworld.geometry.cameras import project, unproject
from traceworld.perception.interfaces import BackendInfo, Frame, Geometry
from traceworld.perception.intrinsics import assumed_K
from traceworld.perception.lifting import PSEUDO_DEPTH_M, depth_edges, sample_depth
from traceworld.perception.matching import lucas_kanade
from traceworld.perception.motion import DenseFlow, FlowField, static_share, textured

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OdometryConfig:
    """Limits of the odometry; pixel figures hold at 640 px width.

    Attributes:
        corners: points followed from a keyframe.
        min_points, min_inlier_share: a pose resting on fewer is refused.
        reprojection_px: RANSAC inlier limit.
        max_step_m, max_step_rad: a larger jump between two frames is refused.
        keyframe_share: a new keyframe is taken when fewer than this share of the corners is left.
        static_share: share of textured pixels at rest above which two frames show the same camera.
    """

    corners: int = 500
    min_points: int = 12
    min_inlier_share: float = 0.3
    reprojection_px: float = 1.5
    max_step_m: float = 0.5
    max_step_rad: float = 0.5
    keyframe_share: float = 0.5
    static_share: float = 0.5


def camera_is_static(
    flows: Sequence[FlowField], long_flows: Sequence[FlowField], textures: Sequence[np.ndarray], limit: float = 0.5
) -> bool:
    """The static-camera gate of one chunk.

    Args:
        flows: between neighbouring frames; most must be at rest in more than `limit` of the textured pixels.
        long_flows: from the first frame to a few later ones: what creeps too slowly to be seen between neighbours.
        textures: textured pixels of the first frame of each of `flows`, then of `long_flows`.
    """
    shares = [static_share(flow, mask) for flow, mask in zip([*flows, *long_flows], textures, strict=True)]
    short = np.array(shares[: len(flows)])
    long = np.array(shares[len(flows) :])
    if not np.isfinite(short).any():
        return True  # nothing to see: nothing that says it moves
    # One later frame that still agrees is enough: a camera that creeps agrees with none, a hand that passes leaves some.
    far_ok = not np.isfinite(long).any() or np.nanmax(long) > 0.6 * limit
    return bool(np.nanmedian(short) > limit and far_ok)


class RGBDOdometry:
    """Pose per frame from corners of a keyframe, lifted with its depth and found again by Lucas–Kanade.

    Moving things are outvoted (RANSAC) and, where the caller knows them, masked. A pose that fails a check (too few points
    or inliers, not finite, an impossible jump) is refused: the last one is held and `status` says why.
    """

    def __init__(self, K: Float[np.ndarray, "3 3"], config: OdometryConfig | None = None):
        self.K = np.asarray(K, np.float64)
        self.config = config or OdometryConfig()
        self.status = ""
        self._gray: np.ndarray | None = None
        self._pose = np.eye(4)
        self._xy = np.zeros((0, 2))
        self._world = np.zeros((0, 3))
        self._started_with = 0

    def start(
        self,
        gray: UInt8[np.ndarray, "H W"],
        depth_m: Float[np.ndarray, "H W"],
        pose: Float[np.ndarray, "4 4"],
        ignore: Bool[np.ndarray, "H W"] | None = None,
    ) -> None:
        """Make this frame, of known pose, the keyframe."""
        self._pose = np.asarray(pose, np.float64)
        self._gray = gray
        self._take_keyframe(gray, depth_m, ignore)

    def step(
        self,
        gray: UInt8[np.ndarray, "H W"],
        depth_m: Float[np.ndarray, "H W"],
        ignore: Bool[np.ndarray, "H W"] | None = None,
    ) -> Float[np.ndarray, "4 4"]:
        """Pose of the next frame: cam_from_world; `status` is "" or why the last pose was held."""
        assert self._gray is not None, "call start first"
        self._follow(gray)
        pose, inliers, self.status = self._solve(gray.shape[1])
        if pose is not None:
            self._pose = pose
            self._xy, self._world = self._xy[inliers], self._world[inliers]
        else:
            log.debug("odometry holds the pose: %s", self.status)
        self._gray = gray
        if pose is None or len(self._xy) < self.config.keyframe_share * self._started_with:
            self._take_keyframe(gray, depth_m, ignore)
        return self._pose.copy()

    def _take_keyframe(self, gray, depth_m, ignore) -> None:
        allowed = ~depth_edges(depth_m, reach_px=3)
        if ignore is not None:
            allowed &= ~ignore
        spacing = max(4, round(gray.shape[1] / 64))
        corners = cv2.goodFeaturesToTrack(
            gray, self.config.corners, 0.005, spacing, mask=allowed.astype(np.uint8) * 255
        )
        xy = np.zeros((0, 2)) if corners is None else corners[:, 0].astype(np.float64)
        z, edge = sample_depth(depth_m, xy)
        keep = np.isfinite(z) & ~edge
        self._xy = xy[keep]
        self._world = unproject(self._xy, z[keep].astype(np.float64), self.K, self._pose)
        self._started_with = len(self._xy)

    def _follow(self, gray) -> None:
        if self._gray is None or len(self._xy) == 0:
            return
        there, error = lucas_kanade(self._gray, gray, self._xy, self._xy)
        good = error < 1.0 * gray.shape[1] / 640
        self._xy, self._world = there[good], self._world[good]

    def _solve(self, width: int) -> tuple[np.ndarray | None, np.ndarray, str]:
        config = self.config
        nobody = np.zeros(0, np.int64)
        if len(self._xy) < config.min_points:
            return None, nobody, "too few points"
        rotation, _ = cv2.Rodrigues(self._pose[:3, :3])
        limit = config.reprojection_px * width / 640
        cv2.setRNGSeed(0)
        try:
            found, turn, shift, inliers = cv2.solvePnPRansac(
                self._world, self._xy, self.K, None, rotation.copy(), self._pose[:3, 3:].copy(), True, 200, limit, 0.999
            )
        except cv2.error as error:
            return None, nobody, f"PnP failed: {error.err}"
        if (
            not found
            or inliers is None
            or len(inliers) < max(config.min_points, config.min_inlier_share * len(self._xy))
        ):
            return None, nobody, "too few inliers"
        inliers = inliers[:, 0]
        turn, shift = cv2.solvePnPRefineLM(self._world[inliers], self._xy[inliers], self.K, None, turn, shift)
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = cv2.Rodrigues(turn)[0], shift[:, 0]
        reason = self._implausible(pose, inliers, limit)
        return (None, nobody, reason) if reason else (pose, inliers, "")

    def _implausible(self, pose: np.ndarray, inliers: np.ndarray, limit: float) -> str:
        if not np.isfinite(pose).all():
            return "pose not finite"
        change = pose @ np.linalg.inv(self._pose)
        turn = np.arccos(np.clip((np.trace(change[:3, :3]) - 1) / 2, -1, 1))
        centre = np.linalg.inv(pose)[:3, 3] - np.linalg.inv(self._pose)[:3, 3]
        if np.linalg.norm(centre) > self.config.max_step_m or turn > self.config.max_step_rad:
            return "impossible jump"
        error = np.linalg.norm(project(self._world[inliers], self.K, pose)[:, :2] - self._xy[inliers], axis=-1)
        return "" if np.nanmedian(error) < limit else "large reprojection error"


class EmbeddedGeometry:
    """Sensor depth as it is, and poses: those given, else identity behind the static gate, else RGB-D odometry.

    Without depth the scene is a plane one unit away and the camera is taken as still (`metric` False).
    """

    info = BackendInfo("geometry", "embedded", "1", "Apache-2.0", metric=True)
    max_frames: int | None = None

    def __init__(self, config: OdometryConfig | None = None):
        self.config = config or OdometryConfig()

    def reconstruct(self, frames: Sequence[Frame], K: Float[np.ndarray, "3 3"] | None) -> Geometry:
        """See `GeometryBackend`."""
        metric = all(frame.depth_m is not None for frame in frames)
        shape = frames[0].image.shape[:2]
        K = assumed_K(shape[1], shape[0]) if K is None else K
        grays = [to_gray(frame.image) for frame in frames]
        pseudo = np.full(shape, PSEUDO_DEPTH_M, np.float32)
        depth = [frame.depth_m if metric and frame.depth_m is not None else pseudo for frame in frames]
        poses, status = self._poses(frames, grays, depth, K, metric)
        return Geometry(np.stack(depth), np.repeat(np.asarray(K)[None], len(frames), 0), poses, metric, tuple(status))

    def _poses(self, frames, grays, depth, K, metric):
        if all(frame.cam_from_world is not None for frame in frames):
            return np.stack([frame.cam_from_world for frame in frames]), [""] * len(frames)
        flow = DenseFlow()
        small = [flow.small(gray) for gray in grays]
        height, width = grays[0].shape
        pairs = [flow.between(a, b, width, height) for a, b in itertools.pairwise(small)]
        far = [flow.between(small[0], small[i], width, height) for i in far_frames(len(small))]
        masks = [textured(image) for image in small[:-1]] + [textured(small[0])] * len(far)
        if not metric or not pairs or camera_is_static(pairs, far, masks, self.config.static_share):
            return np.repeat(np.eye(4)[None], len(frames), 0), ["static"] * len(frames)
        odometry = RGBDOdometry(K, self.config)
        odometry.start(grays[0], depth[0], np.eye(4))
        poses, status = [np.eye(4)], [""]
        for gray, depth_m in zip(grays[1:], depth[1:], strict=True):
            poses.append(odometry.step(gray, depth_m))
            status.append(odometry.status)
        return np.stack(poses), status


def far_frames(count: int) -> list[int]:
    """Frames that the first one is compared with by the static gate."""
    return sorted({count // 4, count // 2, 3 * count // 4, count - 1} - {0, 1})


def to_gray(image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W"]:
    """RGB to grey."""
    return cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
