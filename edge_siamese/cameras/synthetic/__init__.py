"""Synthetic camera: a generated scene with a simulated button, for demos and tests."""
