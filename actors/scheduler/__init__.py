"""Who runs when: plain calls on plain values, without threads, clocks or an event loop."""
