"""greenroom over HTTP: apps of ASGI, and what clients need to reach one without a port.

It does not know actors, backends or how a request is scheduled.
"""
