"""The daemon: settings, the engine that ties camera, recogniser, panel and store, and its life as a service."""
