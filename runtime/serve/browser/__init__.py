"""The page that a browser is shown: chats whose turns branch, several answers at once, the numbers of the batch.

`routes` answers it beside the APIs, `page` alone. A browser has one feed, a stream of events over which all of its
answers come: they end with it, as an API's answer ends with its request. What a model wrote is text, here and there.
"""
