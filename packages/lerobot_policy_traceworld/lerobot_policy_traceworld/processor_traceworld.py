"""What is done to batches before and to actions after the policy: names, batch axis, device; nothing is normalised here."""

from typing import Any

import torch
from lerobot.processor import make_default_pre_post_processors

from lerobot_policy_traceworld.configuration_traceworld import TraceworldConfig


def make_traceworld_pre_post_processors(
    config: TraceworldConfig, dataset_stats: dict[str, dict[str, torch.Tensor]] | None = None
) -> tuple[Any, Any]:
    """LeRobot's standard pipelines; with the IDENTITY mapping of the config their normalising steps pass values through."""
    return make_default_pre_post_processors(config, dataset_stats, normalizer_device=config.device)
