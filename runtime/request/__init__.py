"""One request from its configuration to its events."""
