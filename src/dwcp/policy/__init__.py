"""Core: when a workload is due, which job goes next, what becomes of one that failed, which versions stay."""
