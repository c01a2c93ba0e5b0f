"""The fleet: devices that share a collection on an MQTT broker teach each other."""
