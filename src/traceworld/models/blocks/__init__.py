"""Layers that several models share: normalisation, rotary positions, attention, embeddings, the Turbo depth picture."""
