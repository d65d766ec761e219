"""The board: what it plays (pure arrays) and how it is told to (one small protocol)."""
