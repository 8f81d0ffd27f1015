"""What the action expert is compared with: other ways to make actions from the same features, at the same size."""
