"""Measures the daemon: overhead beside the encoder, memory, start-up time and growth over 100,000 frames."""
