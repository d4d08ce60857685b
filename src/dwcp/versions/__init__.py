"""Versions of what is at a path of an export, kept beside it: made, listed, read, checked, and removed by rule."""
