"""Simulated worlds: RGB-D video, instructions and exact traces for free (Meta-World, its 50 tasks and scripted experts)."""
