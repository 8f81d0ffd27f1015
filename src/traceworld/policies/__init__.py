"""From traces to actions: the action expert on frozen μ0 features, and the trace follower."""
