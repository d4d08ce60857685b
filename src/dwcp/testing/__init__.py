"""Shipped for users of the library and for our own tests: a lab of local nodes, and `check_link`."""

from dwcp.testing.conformance import check_link
from dwcp.testing.lab import Lab, LabNode, lab_down, lab_status, lab_up

__all__ = ["Lab", "LabNode", "check_link", "lab_down", "lab_status", "lab_up"]
