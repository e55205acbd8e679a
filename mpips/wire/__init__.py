"""What travels between nodes: words, messages and their bytes."""
