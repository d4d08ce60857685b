"""Decides about health, recovery and circuit breakers: observations and `now` in, actions out. No clock, no task."""
