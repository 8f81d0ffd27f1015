"""What a policy on a frozen μ0 is: frozen dataclasses that go into its checkpoint as JSON and come back strictly."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from traceworld.errors import ConfigError
from traceworld.models.config_json import read_config
from traceworld.policies.baselines.config import DiffusionHeadConfig, RegressionHeadConfig


@dataclass(frozen=True)
class QueryConfig:
    """Which points of the scene μ0 is asked about.

    Attributes:
        kind: `semantic`: `count` points on small things and spread over place and appearance (`keypoints.semantic_keypoints`); `salient_grid`: the
            strongest corner of each cell of `grid`; `uniform_grid`: the points of `grid` itself, corners on the picture's
            edge (the released policy).
        count: of `semantic`.
        grid: (columns, rows) of the others.
        pool: mean of the features over pool × pool neighbours of a `uniform_grid`.
        noise_cell: side, in uv, of the cells whose points start from the same noise. A point that moves by a pixel keeps its
            noise, so the feature does not jitter (dossier, weak point 38).
        noise_seed: of that noise.
    """

    kind: Literal["semantic", "salient_grid", "uniform_grid"] = "semantic"
    count: int = 32
    grid: tuple[int, int] = (8, 6)
    pool: int = 1
    noise_cell: float = 0.125
    noise_seed: int = 0

    def __post_init__(self):
        if min(self.count, *self.grid, self.pool) < 1 or self.noise_cell <= 0:
            raise ConfigError(f"impossible settings {self}", where="query", mend="counts from 1, noise_cell above 0")
        if self.pool > 1 and (self.kind != "uniform_grid" or any(side % self.pool for side in self.grid)):
            raise ConfigError(
                f"{self.pool} does not divide a grid {self.grid} of {self.kind}", where="query.pool", mend="set it to 1"
            )

    @property
    def points(self) -> int:
        """Query points of every observation."""
        return self.count if self.kind == "semantic" else self.grid[0] * self.grid[1]


@dataclass(frozen=True)
class GripperConfig:
    """The stem of the gripper camera.

    Attributes:
        source: `dino`: the frozen DINOv2 of μ0 (B.4); `prefix`: the maps of a nano μ0's own prefix; `none`: no such camera.
        camera: its name in observations and demonstrations; one without it has a policy with empty eyes there.
        grid: (rows, columns) that the maps are averaged to, one token each.
    """

    source: Literal["dino", "prefix", "none"] = "dino"
    camera: str = "wrist"
    grid: tuple[int, int] = (8, 8)


@dataclass(frozen=True)
class SceneConfig:
    """The stem of the scene camera's finer map, ours: cells of the last layer are 16 pixels of a nano μ0, in which a thing that
    the gripper is to close on has lost its place.

    Attributes:
        source: `prefix`: the map of twice the resolution of a nano μ0's own prefix, its four cells beside each of the last layer's;
            `none`: last-layer features alone, as in B.4.
    """

    source: Literal["prefix", "none"] = "none"


@dataclass(frozen=True)
class FlowHeadConfig:
    """The action expert proper: a self-attention transformer of π0.5's kind and a flow over action chunks (eq. 12).

    Attributes:
        width, depth, heads, kv_heads, head_dim, mlp_hidden: the transformer.
        rope_base: of the rotary positions.
        prefix_layers: how many layers update the tokens of the observation. All (`depth`) is the paper's expert; fewer is
            ours for a CPU: later layers read those tokens as they are by then, which costs keys and values only.
        prefix_sees_time: flow time modulates the tokens of the observation as well (released code). Then nothing of them
            can be kept between Euler steps.
        euler_steps: from noise to actions.
        tau: distribution of flow time in training: `beta` (0.999·Beta(1.5, 1) + 0.001, as π0.5 and the released code) or `uniform`.
        draws: independent (τ, ε) for each observation of a batch; they share the tokens of the observation.
    """

    kind: Literal["flow"] = "flow"
    width: int = 1024
    depth: int = 18
    heads: int = 8
    kv_heads: int = 1
    head_dim: int = 256
    mlp_hidden: int = 4096
    rope_base: float = 10_000.0
    prefix_layers: int = 18
    prefix_sees_time: bool = False
    euler_steps: int = 10
    tau: Literal["uniform", "beta"] = "beta"
    draws: int = 1

    def __post_init__(self):
        if min(self.width, self.depth, self.kv_heads, self.euler_steps, self.draws) < 1:
            raise ConfigError(f"impossible settings {self}", where="head", mend="everything is at least 1")
        if self.heads % self.kv_heads or self.head_dim % 2:
            raise ConfigError(f"{self.kv_heads} do not divide {self.heads} heads", where="head.kv_heads")
        if not 0 <= self.prefix_layers <= self.depth:
            raise ConfigError(f"{self.prefix_layers} of {self.depth} layers", where="head.prefix_layers")
        if self.prefix_sees_time and self.prefix_layers < self.depth:
            raise ConfigError("a prefix that sees time runs through all layers", where="head.prefix_layers")


HeadConfig = FlowHeadConfig | DiffusionHeadConfig | RegressionHeadConfig


@dataclass(frozen=True)
class PolicyConfig:
    """A whole policy, the frozen μ0 aside.

    Attributes:
        state_dim, action_dim: numbers of proprioception and of an action.
        size: the dial it was made with, or `custom`.
        chunk: actions per chunk (K).
        trace: `expert`: z_trace is injected (eq. 11). `none`: nothing is injected: the paper's "VLM + action expert", the
            released `use_trace=False`. `self`: the trace expert is removed and the injection reads the prefix's own features
            instead, so that the twin has the same layers and as many parameters.
        mixer_heads: of the injection.
        proprioception: through an `mlp` (B.4) or a `linear` map (released code).
        normalise: states and actions to zero mean and unit spread (`mean_std`), or as they are (`none`, released code).
        query, gripper, scene, head: see there.
        depth: μ0 is shown the scene camera's metric depth as well, and told the depth of the query points. (The released
            policies have none.)
        compat: `official`: look and read features as the released code does (`official.switches`).
    """

    state_dim: int
    action_dim: int
    size: str = "custom"
    chunk: int = 16
    trace: Literal["expert", "self", "none"] = "expert"
    mixer_heads: int = 16
    proprioception: Literal["mlp", "linear"] = "mlp"
    normalise: Literal["mean_std", "none"] = "mean_std"
    query: QueryConfig = field(default_factory=QueryConfig)
    gripper: GripperConfig = field(default_factory=GripperConfig)
    scene: SceneConfig = field(default_factory=SceneConfig)
    head: HeadConfig = field(default_factory=FlowHeadConfig)
    compat: Literal["none", "official"] = "none"
    depth: bool = False

    def __post_init__(self):
        for name in ("state_dim", "action_dim", "chunk", "mixer_heads"):
            if getattr(self, name) < 1:
                raise ConfigError("must be at least 1", where=name)
        if self.compat == "official":
            from traceworld.policies.action_expert.official.switches import check_official

            check_official(self)

    def looks_at(self, cameras: Sequence[str]) -> tuple[str, ...]:
        """Of some cameras, the scene camera first, those whose pictures it reads: that one, and the gripper's."""
        gripper = self.gripper.camera if self.gripper.source != "none" else None
        return (*cameras[:1], *(camera for camera in cameras[1:] if camera == gripper))

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> PolicyConfig:
        """The config that `to_dict` (through JSON) described.

        Raises:
            ConfigError: an unknown field, or a value of the wrong kind; named with its path.
        """
        return read_config(PolicyConfig, values)
