"""Hierarchical delta encoding: what has to be sent of a file, given what the other end has of it, and in which form.

From coarse to fine: leaf hashes (1 MiB and up) tell what stands unchanged; page hashes (4 KiB) what is left in place
inside a changed leaf; content-defined chunks what moved; a codec squeezes the rest. Pure functions of bytes.

Where both ends hold the old version, `encoder` compares the two byte by byte instead, and `decoder` puts the new one
together; `rounds` does that for objects in memory, again and again.
"""
