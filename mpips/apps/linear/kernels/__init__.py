"""Numba kernels of the block solvers, compiled when imported for the types they are used with.

None of them sums in an order that depends on threads or on the machine's BLAS.
"""
