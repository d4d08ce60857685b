"""What the process is doing, for people who debug it: profiles in pprof's format, stacks of threads and tasks."""
