"""What computes: the `Backend` protocol, MLX, the scripted double, and the bundled model.

A backend knows rows, token ids and numbers. It does not know tasks, grammars, requests or text events.
"""
