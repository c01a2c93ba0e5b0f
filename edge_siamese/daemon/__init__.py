"""The daemon: settings, the engine that ties camera, recognizer, panel and store, and its life as a service."""
