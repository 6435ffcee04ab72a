"""Who runs when: the scheduler, its inbox, per-request handles, and the bridge to the event loop.

This package does not know text, chat templates, HTTP, or arrays. Its parts by thread: `scheduler` and `engine` belong
to the engine thread; `client`, `dispatcher`, `mailbox` and `task` to the event loop; `inbox`, `bridge` and the plain
structs of `messages` lie between. `decoder` and `drafter` are what the engine asks of the layer above.
"""
