"""Logistic regression with an L1 penalty: block solvers for the optimum, FTRL for streams."""
