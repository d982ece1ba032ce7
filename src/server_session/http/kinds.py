"""How the objects of frameworks are read: by their type, for a guess by attributes took one kind for another."""

from collections.abc import Mapping
from importlib import import_module
from typing import TypeVar

__all__ = ["Kinds"]

T = TypeVar("T")


class Kinds(dict[type, T | None]):
    """How the objects of each type are read, `None` where nobody said so; a subclass is read as its base is.

    `known` are those known by the name of their class, with its module, so that no framework is imported for it.
    """

    def __init__(self, known: Mapping[type | str, T] | None = None) -> None:
        super().__init__()
        self.known = {**(known or {})}

    def register(self, kind: type, read: T) -> None:
        """Say how a framework's objects of this type, and of its subclasses, are read.

        Args:
            kind: the type.
            read: of a request it returns `AsgiRequest.of(scope)`, `WsgiRequest.of(environ)` or, where the framework
                shows neither, `HeadersRequest.of(object)`, which reads `headers`, `method`, `path` and `scheme`; of a
                response its `ResponseHeaders`, for which mostly `MultiDictHeaders` will do.

        """
        self.known[kind] = read
        # A subclass may have been looked up already, and be kept with what reads a base further up.
        self.clear()

    def __missing__(self, kind: type) -> T | None:
        # The readers of all frameworks' objects are loaded when an object of a type not yet known is met.
        import_module("server_session.http.frameworks")
        names = (one for base in kind.__mro__ for one in (base, f"{base.__module__}.{base.__qualname__}"))
        read = self[kind] = next((self.known[one] for one in names if one in self.known), None)
        return read
