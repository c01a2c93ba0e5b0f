"""What the commands of `edge-siamese` do: each prints its result and returns the exit status."""
