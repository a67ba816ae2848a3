"""The composition root: the only place that picks concrete wires and binds services together."""
