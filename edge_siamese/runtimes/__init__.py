"""Inference runtimes: the encoder interface, one module for each runtime, and the choice between them."""
