"""The constraints a user may name, one module a kind."""
