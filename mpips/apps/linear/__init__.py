"""L1 logistic regression: block solvers, exact, diagonal and delayed, and streams."""
