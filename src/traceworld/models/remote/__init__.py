"""Predictors that run elsewhere: any vision-language model over an OpenAI-compatible endpoint, RoboTracer's HTTP API."""

from traceworld.models.remote.robotracer import RoboTracerPredictor
from traceworld.models.remote.vlm import VlmPredictor

__all__ = ["RoboTracerPredictor", "VlmPredictor"]
