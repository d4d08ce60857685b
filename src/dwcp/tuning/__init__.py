"""How much of a link to use: decisions from measurements, one controller a file."""
