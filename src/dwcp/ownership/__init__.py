"""Core: who owns a workload, and for how long its owner may say so."""
