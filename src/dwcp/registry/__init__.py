"""Where the nodes of a cluster agree: one small interface, and the engines behind it."""
