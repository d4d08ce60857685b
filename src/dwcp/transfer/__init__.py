"""One transfer, both roles: composes protocol, tuning, delta encoding, links, files and state into moving a tree."""
