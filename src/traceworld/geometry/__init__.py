"""Pure maths on arrays: cameras, rigid transforms, B-splines, arc length, sampling. Knows nothing of videos or files."""
