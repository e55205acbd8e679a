"""The protocol as pure machines: no MPI, no clock, no randomness, no logging."""
