"""What nodes know of each other: entries that are written anywhere and become the same everywhere.

Core: entries, wall clock and monotonic `now` in, entries and messages out. Anti-entropy (Demers et al., 1987) between
pairs of replicas; a digest tree finds what differs, a join of versions makes it the same.

    clock       stamps that respect causality and stay near to the wall clock
    entry       a key with its versions; tombstones, expiry, limits
    lww, mvcc, crdt, merge
                how two states of a key become one: a join, so that neither order nor repetition matters
    digest      what a replica has, as sums over ranges of hashed keys
    messages    what two replicas say to each other
    views       how old our view of each node is, and what everybody is known to have
    replica     all of a node's entries: writes, merges, expiry, collection of tombstones
    rounds      one exchange between two replicas, both roles
    partners    whom to talk to next
"""
