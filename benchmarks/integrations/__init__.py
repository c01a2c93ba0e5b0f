"""Measures what the dashboard, MQTT and metrics cost the daemon."""
