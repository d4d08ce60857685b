"""What carries frames between two ends: one interface, TCP behind it, TLS around it, and what the kernel made of it."""
