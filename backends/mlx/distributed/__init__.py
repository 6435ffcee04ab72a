"""A model that several processes hold together: MLX's groups, the parts of a model, and tokens that one rank draws.

It knows no sockets and no messages of plans; what ranks have to tell each other beside a pass goes through a function.
"""
