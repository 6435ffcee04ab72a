"""KV of prompts that are over, kept for prompts that begin alike: in memory and in files."""
