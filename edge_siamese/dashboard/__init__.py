"""The dashboard: a page and an interface for programs, served by the daemon."""
