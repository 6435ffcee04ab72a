"""A backend looked at from outside: what it stands on, what a step launches, and the same model run by mlx-lm itself.

Nothing here is used by a running backend.
"""
