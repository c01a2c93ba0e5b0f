"""Recognition itself, on numpy alone: imaging, head, support set, decision, tracking and registration."""
