"""Measured results, and the code that measures the daemon."""
