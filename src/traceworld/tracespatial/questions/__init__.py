"""Questions about a scene with known geometry, one family per module; every question carries the program that made it."""
