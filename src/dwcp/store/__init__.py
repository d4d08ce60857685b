"""What outlives the process: identity, resume journals, knowledge of baselines."""
