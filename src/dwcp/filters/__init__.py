"""Which names of a tree belong to a transfer: rules in the syntax of rsync(1). Core: no file is read here."""
