"""The doors of the notebooks: each stage from its parameters to its results."""
