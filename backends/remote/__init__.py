"""A backend elsewhere: the protocol as messages, what performs them on a real one, and what sends them.

`messages.py` has all that is said, `channel.py` how it travels. `RemoteBackend` is the one end, a `Backend` like any
other whose work a child process does; `follow.py` is the other end. A step costs one message there and one back.
"""
