"""MQTT: events and states go to a broker, commands come from it, and Home Assistant finds the device by itself."""
