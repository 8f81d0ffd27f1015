"""Predictors of traces behind one interface."""

from __future__ import annotations

from traceworld.models.predictor import TracePredictor, load_predictor, predictor_names

__all__ = ["TracePredictor", "load_predictor", "predictor_names"]
