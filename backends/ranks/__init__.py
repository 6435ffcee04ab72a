"""A backend that is spread over processes, on one machine or several: rank 0 tells the others what it does.

It knows no arrays: what ranks exchange inside a pass is their backend's own. Plans go by sockets, which cost a tenth of
what a collective costs and do not queue behind the pass.
"""
