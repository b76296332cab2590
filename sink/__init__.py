"""Where documents are kept: the store contract, the terms documents are found by, and SQLite."""
