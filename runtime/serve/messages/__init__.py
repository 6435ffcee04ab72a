"""Anthropic's API: `/v1/messages` and `/v1/messages/count_tokens`.

This package does not know sockets, ids or rows: a request becomes what every API here asks for, and the events of its
generation become blocks.
"""
