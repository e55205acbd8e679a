"""Filters that make messages smaller, undone on the other side."""
