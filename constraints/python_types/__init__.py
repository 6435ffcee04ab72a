"""What a Python type is as JSON: the library that reads it, the schema that a grammar can enforce, and the decoder."""
