"""What a request brings: parameters, prompts, chat templates and tools, checked once."""
