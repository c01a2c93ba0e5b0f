"""The commands of `edge-siamese`, one module for each group; each prints its result and returns the exit status."""
