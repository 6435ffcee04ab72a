"""`Context` and `Generator`: a generation step by step, its forks, rewinds and snapshots."""
