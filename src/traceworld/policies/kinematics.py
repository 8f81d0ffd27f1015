"""Inverse kinematics of any MuJoCo arm: damped least squares on MuJoCo's own Jacobians, joint limits kept, collisions seen.

Why not a library: `mink`, the well-kept one, needs MuJoCo ≥ 3.3.6 in its maintained releases and brings a QP solver; the
simulated corpora pin 3.3.0. What is needed here is one Levenberg–Marquardt loop with bounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float64
from scipy.spatial.transform import Rotation

from traceworld.errors import ConfigError, InvalidInputError
from traceworld.extras import require

_DAMPING, _EASE, _STIFFEN = 1e-3, 0.3, 4.0
_LARGEST_STEP = 0.4
"""Radians (or metres) that a joint moves at most per iteration."""


@dataclass(frozen=True, eq=False)
class IkSolution:
    """Joint positions found for a pose.

    Attributes:
        joints: [J] within the limits, always.
        position_error_m, rotation_error_rad: what is left (0 for a rotation that was not asked for).
        reached: both are within the tolerances.
        collisions: pairs of geoms of which at least one is moved by the joints, that touch.
    """

    joints: Float64[np.ndarray, " J"]
    position_error_m: float
    rotation_error_rad: float
    reached: bool
    collisions: tuple[tuple[str, str], ...] = ()


class ArmKinematics:
    """One chain of one-degree joints of a MuJoCo model, and the frame at its end.

    Args:
        model: a `mujoco.MjModel`; it is not changed.
        frame: name of a site or body: the tool.
        joints: names of the hinge and slide joints that may move. Every other joint stays where `rest` has it.
        rest: [nq] the model's configuration; None: its reference (`qpos0`).
        rotation_weight_m: metres that a radian of rotation error counts as.
        allowed_contacts: pairs of geom (or body) names that may touch.

    Raises:
        ConfigError: no such joint or frame, or a joint of more than one degree.
        MissingExtraError: MuJoCo is not installed.
    """

    def __init__(
        self,
        model: Any,
        frame: str,
        joints: Sequence[str],
        rest: Float[np.ndarray, " nq"] | None = None,
        *,
        rotation_weight_m: float = 0.2,
        allowed_contacts: Sequence[tuple[str, str]] = (),
    ):
        self._mujoco = require("mujoco")
        self.model, self.data = model, self._mujoco.MjData(model)
        self.joints = tuple(joints)
        self._joint = [self._id(self._mujoco.mjtObj.mjOBJ_JOINT, name) for name in joints]
        for name, joint in zip(joints, self._joint, strict=True):
            if joint < 0:
                raise ConfigError(f"there is no joint '{name}'", where="ArmKinematics.joints")
            if model.jnt_type[joint] not in (self._mujoco.mjtJoint.mjJNT_HINGE, self._mujoco.mjtJoint.mjJNT_SLIDE):
                raise ConfigError(f"joint '{name}' has more than one degree", where="ArmKinematics.joints")
        if not self._joint:
            raise ConfigError("no joints", where="ArmKinematics.joints", mend="name the joints that may move")
        self._site = self._id(self._mujoco.mjtObj.mjOBJ_SITE, frame)
        self._body = self._id(self._mujoco.mjtObj.mjOBJ_BODY, frame)
        if self._site < 0 and self._body < 0:
            raise ConfigError(f"there is no site or body '{frame}'", where="ArmKinematics.frame")
        self._qpos, self._dof = model.jnt_qposadr[self._joint], model.jnt_dofadr[self._joint]
        limited = model.jnt_limited[self._joint].astype(bool)
        self.low = np.where(limited, model.jnt_range[self._joint, 0], -np.inf)
        self.high = np.where(limited, model.jnt_range[self._joint, 1], np.inf)
        self.data.qpos[:] = model.qpos0 if rest is None else rest
        self._rotation_weight = rotation_weight_m
        self._allowed = {frozenset(pair) for pair in allowed_contacts}
        self._moved = self._moved_bodies()

    def forward(self, joints: Float[np.ndarray, " J"]) -> Float64[np.ndarray, "4 4"]:
        """world_from_tool at these joint positions."""
        self._put(joints)
        pose = np.eye(4)
        if self._site >= 0:
            pose[:3, :3], pose[:3, 3] = self.data.site_xmat[self._site].reshape(3, 3), self.data.site_xpos[self._site]
        else:
            pose[:3, :3], pose[:3, 3] = self.data.xmat[self._body].reshape(3, 3), self.data.xpos[self._body]
        return pose

    def jacobian(self, joints: Float[np.ndarray, " J"]) -> Float64[np.ndarray, "6 J"]:
        """How the tool moves (m) and turns (rad), in the world, per unit of each joint."""
        self._put(joints)
        moving, turning = np.zeros((3, self.model.nv)), np.zeros((3, self.model.nv))
        if self._site >= 0:
            self._mujoco.mj_jacSite(self.model, self.data, moving, turning, self._site)
        else:
            self._mujoco.mj_jacBody(self.model, self.data, moving, turning, self._body)
        return np.concatenate([moving[:, self._dof], turning[:, self._dof]])

    def solve(
        self,
        target: Float[np.ndarray, "4 4"],
        start: Float[np.ndarray, " J"],
        *,
        orientation: bool = True,
        tolerance_m: float = 1e-4,
        tolerance_rad: float = 1e-3,
        iterations: int = 100,
        restarts: int = 0,
        seed: int = 0,
    ) -> IkSolution:
        """Joint positions that put the tool at `target`, the nearest that the limits allow.

        Levenberg–Marquardt from `start`: Δq = Jᵀ(JJᵀ + λI)⁻¹e with λ eased after a step that helps and stiffened after one
        that does not; joints at a limit that would leave it are taken out of the step.

        Args:
            orientation: False: only the position counts.
            restarts: how often to try again from random joint positions when the target is not reached.
            seed: of these.

        Raises:
            InvalidInputError: `start` has another length than the joints, or something is not finite.
        """
        if start.shape != (len(self.joints),) or not (np.isfinite(start).all() and np.isfinite(target).all()):
            raise InvalidInputError(
                f"start of shape {start.shape} for {len(self.joints)} joints, all must be finite", where="solve"
            )
        goal = target.astype(np.float64)
        rng = np.random.default_rng(seed)
        best: tuple[float, np.ndarray] | None = None
        for attempt in range(restarts + 1):
            first = np.clip(start.astype(np.float64), self.low, self.high) if attempt == 0 else self._random(rng)
            joints, cost = self._descend(first, goal, orientation, iterations, tolerance_m, tolerance_rad)
            if best is None or cost < best[0]:
                best = cost, joints
            if self._within(joints, goal, orientation, tolerance_m, tolerance_rad):
                break
        assert best is not None
        joints = best[1]
        error = self._error(joints, goal, orientation)
        reached = self._within(joints, goal, orientation, tolerance_m, tolerance_rad)
        position, rotation = float(np.linalg.norm(error[:3])), float(np.linalg.norm(error[3:]))
        return IkSolution(joints, position, rotation, reached, self.collisions(joints))

    def collisions(self, joints: Float[np.ndarray, " J"]) -> tuple[tuple[str, str], ...]:
        """Pairs of geoms that touch, of which the joints move at least one."""
        self._put(joints)
        self._mujoco.mj_collision(self.model, self.data)
        pairs = []
        for contact in self.data.contact[: self.data.ncon]:
            geoms = (int(contact.geom1), int(contact.geom2))
            if contact.dist < 0 and self._moved[self.model.geom_bodyid[list(geoms)]].any():
                pairs.append(geoms)
        return tuple(sorted({self._names(pair) for pair in pairs if not self._may_touch(pair)}))

    def _descend(
        self,
        joints: np.ndarray,
        goal: np.ndarray,
        orientation: bool,
        iterations: int,
        tolerance_m: float,
        tolerance_rad: float,
    ) -> tuple[np.ndarray, float]:
        scale = np.array([1.0] * 3 + [self._rotation_weight if orientation else 0.0] * 3)
        damping = _DAMPING
        error = scale * self._error(joints, goal, orientation)
        for _ in range(iterations):
            if self._within(joints, goal, orientation, tolerance_m, tolerance_rad):
                break
            J = scale[:, None] * self.jacobian(joints)
            step = self._step(J, error, joints, damping)
            tried = np.clip(joints + step, self.low, self.high)
            after = scale * self._error(tried, goal, orientation)
            if after @ after < error @ error:
                joints, error, damping = tried, after, max(damping * _EASE, 1e-9)
            elif damping > 1e6:
                break
            else:
                damping *= _STIFFEN
        return joints, float(error @ error)

    def _step(self, J: np.ndarray, error: np.ndarray, joints: np.ndarray, damping: float) -> np.ndarray:
        free = np.ones(len(joints), bool)
        step = np.zeros(len(joints))
        for _ in range(len(joints)):
            Jf = J * free
            step = Jf.T @ np.linalg.solve(Jf @ Jf.T + damping * np.eye(6), error)
            leaving = free & (((joints <= self.low) & (step < 0)) | ((joints >= self.high) & (step > 0)))
            if not leaving.any():
                break
            free &= ~leaving
        return step * min(1.0, _LARGEST_STEP / max(float(np.abs(step).max(initial=0.0)), 1e-12)) * free

    def _error(self, joints: np.ndarray, goal: np.ndarray, orientation: bool) -> np.ndarray:
        pose = self.forward(joints)
        turn = np.zeros(3)
        if orientation:
            turn = Rotation.from_matrix(goal[:3, :3] @ pose[:3, :3].T).as_rotvec()
        return np.concatenate([goal[:3, 3] - pose[:3, 3], turn])

    def _within(self, joints: np.ndarray, goal: np.ndarray, orientation: bool, metres: float, radians: float) -> bool:
        error = self._error(joints, goal, orientation)
        return bool(np.linalg.norm(error[:3]) <= metres and np.linalg.norm(error[3:]) <= radians)

    def _random(self, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(np.maximum(self.low, -np.pi), np.minimum(self.high, np.pi))

    def _put(self, joints: np.ndarray) -> None:
        self.data.qpos[self._qpos] = joints
        self._mujoco.mj_kinematics(self.model, self.data)
        self._mujoco.mj_comPos(self.model, self.data)

    def _id(self, kind: Any, name: str) -> int:
        return int(self._mujoco.mj_name2id(self.model, kind.value, name))

    def _moved_bodies(self) -> np.ndarray:
        """[nbody] bodies that one of the joints moves."""
        moved = np.zeros(self.model.nbody, bool)
        moved[self.model.jnt_bodyid[self._joint]] = True
        for body in range(1, self.model.nbody):  # parents come before their children
            moved[body] |= moved[self.model.body_parentid[body]]
        return moved

    def _names(self, pair: tuple[int, int]) -> tuple[str, str]:
        first, second = sorted(self._geom_name(geom) for geom in pair)
        return first, second

    def _geom_name(self, geom: int) -> str:
        body = self.model.body(self.model.geom_bodyid[geom]).name
        return self.model.geom(geom).name or f"{body}/{geom}"

    def _may_touch(self, pair: tuple[int, int]) -> bool:
        bodies = [self.model.body(self.model.geom_bodyid[geom]).name for geom in pair]
        return frozenset(self._names(pair)) in self._allowed or frozenset(bodies) in self._allowed
