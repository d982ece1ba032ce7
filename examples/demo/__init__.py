"""A small tea shop that shows each function of server-session as a page: `python -m examples.demo`."""
