"""Public datasets into our clip store, one reader each: EgoDex, EgoVerse, DROID, AgiBot."""
