"""MQTT: publishes events, states and Home Assistant discovery, and runs commands."""
