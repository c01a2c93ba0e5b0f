"""The fleet: devices that share a collection on an MQTT broker teach each other."""

from edge_siamese.fleet.fleet import Fleet

__all__ = ["Fleet"]
