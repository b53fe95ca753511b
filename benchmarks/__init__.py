"""Every figure of speed and memory in this project, measured: ``python -m benchmarks`` (or ``make bench``) runs all of it.

A part is one module with a function that returns rows of the table; :mod:`benchmarks.table` keeps the table.
"""
