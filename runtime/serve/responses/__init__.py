"""OpenAI's newer API: `/v1/responses`, without state and with what is kept in memory.

This package does not know sockets, ids or rows: a request becomes what every API here asks for, and the events of its
generation become items.
"""
