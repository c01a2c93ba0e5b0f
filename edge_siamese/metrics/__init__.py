"""What Prometheus reads of a daemon: which figures there are, and where they are served."""
