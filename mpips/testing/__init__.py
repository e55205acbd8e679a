"""Shipped for users' tests: a simulated cluster, and the promises of transports."""
