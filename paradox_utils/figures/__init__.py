"""The book's figures: each function takes a table and returns a matplotlib ``Figure``, the same for the same table."""
