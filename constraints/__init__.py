"""What may be said: schemas, matchers, masks and structures will live here.

This package does not know MLX, tasks, or the scheduler. Nothing of it is built yet; `constrain=` is refused until then.
"""
