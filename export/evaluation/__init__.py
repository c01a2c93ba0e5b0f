"""Evaluation of encoders, runs and bundles."""
