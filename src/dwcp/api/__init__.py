"""HTTP: health for load balancers, state for people and programs, and the few things that may be changed."""
