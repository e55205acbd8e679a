"""Hold everything that touches disks: training data, models and text, with their checks."""
