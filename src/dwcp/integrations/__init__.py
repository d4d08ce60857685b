"""Interfaces that other programs know, in front of the library."""
