"""TraceGen: a scene's motion as the increments of a fixed grid of image points (arXiv 2511.21690)."""
