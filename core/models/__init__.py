"""Files to networks with weights: recognising, reading, keeping."""
