"""Inference runtimes: the encoder protocol, one module for each runtime, and the selection of one that works."""
