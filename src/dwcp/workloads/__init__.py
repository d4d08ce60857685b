"""Declared workloads at work: when they are due their jobs are queued, run, tried again, and remembered."""
