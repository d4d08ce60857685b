"""`make soak`: random faults between real processes in network namespaces, drawn from a seed. See `__main__`."""
