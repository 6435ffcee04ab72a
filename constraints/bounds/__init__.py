"""What is known of a grammar by looking at it, before anything native sees it: how deep it is, where it may loop."""
