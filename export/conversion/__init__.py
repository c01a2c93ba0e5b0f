"""Conversion of trained networks to int8 bundles."""
