"""The benchmark: generated logs, and what reading them costs."""
