"""OpenAI's chat completions and text completions. Knows the two APIs' fields and chunks; not how they are carried."""
