"""The commands of `python -m export`: one file each, which parses, calls and prints, and computes nothing."""
