"""L1 logistic regression: exact and cheap block solvers, delayed ones, and streams over the rows."""
