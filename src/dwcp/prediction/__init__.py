"""Forecasts at work: what runs the weights, what makes the rounds, and the training of weights."""
