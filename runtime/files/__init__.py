"""Files as they are read and written here. What stands in them is not known."""
