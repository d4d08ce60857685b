"""The coordinator: starts components in order, looks after them, stops them in reverse."""
