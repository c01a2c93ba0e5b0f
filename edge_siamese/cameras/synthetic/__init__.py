"""A camera that draws a scripted scene."""
