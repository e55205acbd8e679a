"""Algorithms that run on the parameter server."""
