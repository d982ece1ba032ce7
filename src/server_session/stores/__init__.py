"""The session stores, each a module that imports its own driver and no other."""
