"""The trace follower: predicted traces → end-effector motion, without learning (TraceGen's hand-designed replay, done properly)."""
