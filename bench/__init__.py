"""Benchmarks, one command each (`make bench-NAME`): peers in the same run, ratios rather than times."""
