"""TraceSpatial-Bench: what a predicted trace is worth, in the picture and in metres, with and without the published faults."""
