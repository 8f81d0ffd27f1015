"""A toy environment for `lerobot-eval`: a dot that is to reach the middle; two cameras, six steps."""

from dataclasses import dataclass, field

import gymnasium as gym
import numpy as np
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig

SIZE = (48, 32)  # width, height
STEPS = 6


class ToyReach(gym.Env):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (gymnasium's own form)
    task, task_description, _max_episode_steps = "reach", "reach the middle", STEPS

    def __init__(self, render_mode: str = "rgb_array"):
        self.render_mode = render_mode
        picture = gym.spaces.Box(0, 255, (SIZE[1], SIZE[0], 3), np.uint8)
        self.observation_space = gym.spaces.Dict(
            {
                "pixels": gym.spaces.Dict({"scene": picture, "wrist": picture}),
                "agent_pos": gym.spaces.Box(-2, 2, (2,), np.float32),
            }
        )
        self.action_space = gym.spaces.Box(-1, 1, (3,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.steps = self.np_random.uniform(-1, 1, 2).astype(np.float32), 0
        return self._observe(), {"is_success": False}

    def step(self, action):
        self.place = np.clip(self.place + 0.1 * np.asarray(action[:2], np.float32), -2, 2)
        self.steps += 1
        reached = bool(np.abs(self.place).max() < 0.1)
        return self._observe(), float(reached), reached, self.steps >= STEPS, {"is_success": reached}

    def render(self):
        image = np.full((SIZE[1], SIZE[0], 3), 90, np.uint8)
        x, y = ((self.place + 2) / 4 * (np.array(SIZE) - 6)).astype(int)
        image[y : y + 5, x : x + 5] = (220, 40, 40)
        return image

    def _observe(self):
        image = self.render()
        return {"pixels": {"scene": image, "wrist": image[::-1].copy()}, "agent_pos": self.place.copy()}


gym.register("gym_toyreach/reach", entry_point="gym_toyreach:ToyReach", max_episode_steps=STEPS)


@EnvConfig.register_subclass("toyreach")
@dataclass
class ToyReachConfig(EnvConfig):
    task: str | None = "reach"
    fps: int = 10
    features: dict[str, PolicyFeature] = field(
        default_factory=lambda: {
            "action": PolicyFeature(FeatureType.ACTION, (3,)),
            "agent_pos": PolicyFeature(FeatureType.STATE, (2,)),
            "pixels/scene": PolicyFeature(FeatureType.VISUAL, (SIZE[1], SIZE[0], 3)),
            "pixels/wrist": PolicyFeature(FeatureType.VISUAL, (SIZE[1], SIZE[0], 3)),
        }
    )
    features_map: dict[str, str] = field(
        default_factory=lambda: {
            "action": "action",
            "agent_pos": "observation.state",
            "pixels/scene": "observation.images.scene",
            "pixels/wrist": "observation.images.wrist",
        }
    )

    @property
    def gym_kwargs(self) -> dict:
        return {"render_mode": "rgb_array"}
