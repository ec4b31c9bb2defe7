"""Benchmarks: every figure is a ratio against a reference that ran in the same process, in turns with it."""
