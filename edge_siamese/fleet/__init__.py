"""The fleet: devices that share a collection of objects over an MQTT broker."""

from edge_siamese.fleet.fleet import Fleet

__all__ = ["Fleet"]
