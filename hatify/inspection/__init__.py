"""A converted network, looked at: in tables, in words and in pictures."""
