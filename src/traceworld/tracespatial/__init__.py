"""Scenes with geometry → spatial traces, questions and reasoning chains, each answer checked (RoboTracer's data)."""
