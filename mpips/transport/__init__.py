"""Frames between nodes, over MPI or over queues in one process."""
