"""The workload host: one process per node in which the built-in images of all its pods run."""
