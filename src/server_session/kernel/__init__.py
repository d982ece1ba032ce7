"""The life of a session, without any I/O but a store's calls: states, records, tokens and the mapping."""
