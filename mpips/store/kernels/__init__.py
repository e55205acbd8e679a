"""Compiled loops over the rows of a message, one module for each family.

A module compiles its functions when it is imported, for the types it names, and Numba keeps the
result in its cache folder. Importing is therefore what makes a process ready, and no function is
ever compiled in the middle of a run.
"""
