"""RoboTracer's training: fine-tuning in two stages and reinforcement with rewards on the process (RoboTracer §3.2, D.2–D.4)."""
