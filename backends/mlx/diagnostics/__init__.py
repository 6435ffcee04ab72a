"""What a backend does on this machine, looked at from outside: counts of its graph."""
