"""What people watch: the state of a node as one live document, and the page at / that shows it."""

KEEP_ALIVE = 15.0
"""Seconds without a message after which a comment is sent: the HTML standard's advice for proxies that time out."""
