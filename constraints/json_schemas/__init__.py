"""JSON schemas and Python types as constraints, and the keyword to name where one is not supported."""
