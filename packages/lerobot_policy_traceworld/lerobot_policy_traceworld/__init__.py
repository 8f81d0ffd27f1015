"""The trace-conditioned action expert of traceworld as a LeRobot policy (type `traceworld`)."""

from lerobot_policy_traceworld.configuration_traceworld import TraceworldConfig
from lerobot_policy_traceworld.modeling_traceworld import TraceworldPolicy
from lerobot_policy_traceworld.processor_traceworld import make_traceworld_pre_post_processors

__all__ = ["TraceworldConfig", "TraceworldPolicy", "make_traceworld_pre_post_processors"]
