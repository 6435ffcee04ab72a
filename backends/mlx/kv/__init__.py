"""Where the KV of rows lives, one module a kind of store, and the forward pass over it."""
