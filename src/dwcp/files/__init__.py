"""Reads and writes trees without ever leaving them: held directories, no symlink followed, final names last."""
