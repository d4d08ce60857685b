"""The protocol, without a socket: frames, messages, the handshake, and the names and sizes that bound them.

`docs/protocol.md` is this room in prose. The shell (`dwcp.transfer`) moves the bytes; everything here takes bytes
and returns values, so every rule is tested whole, by the byte, and with garbage.
"""
