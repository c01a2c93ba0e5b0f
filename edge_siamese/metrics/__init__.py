"""Prometheus metrics of the daemon, and the HTTP server that exposes them."""
