"""What people watch: the state of a node as one live document, and the page at / that shows it."""
