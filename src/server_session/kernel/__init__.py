"""The life of a session, without any I/O but a store's calls: states, look-ups, writes and the mapping."""
