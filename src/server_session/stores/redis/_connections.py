"""The connections to Redis of callers that block: each call has one for itself."""

import math
from time import monotonic
from typing import Any, Final

from redis.exceptions import ConnectionError, ReadOnlyError, RedisError, ResponseError  # noqa: A004

from server_session.stores._clients import Places, has_ended
from server_session.stores._waits import left, next_wait
from server_session.stores.redis._resp import NOT_YET, Answers, Notice, packed

__all__ = ["Connections"]

# Bytes that are taken at once.
_PIECE: Final = 65536


class Connections:
    """As many connections as callers were at work at once, and no more than may be.

    redis-py's own pool costs more than a call over it, and its one that blocks has one limit for all.

    Args:
        pool: One of redis-py's: what it would make is made here.
    """

    def __init__(self, pool: Any) -> None:
        self._kind = _limited(pool)
        self._settings = pool.connection_kwargs
        self.places = Places[Any](pool.max_connections)

    def call(self, words: tuple[bytes, ...]) -> Any:
        """Send a command, once, and return its answer, within what the call under way has left.

        Raises:
            RedisError, OSError: There was no place, the answer is lost, or it is an error.
        """
        try:
            connection = self.places.take(left())
        except TimeoutError:
            raise ConnectionError("No connection available.") from None
        try:
            if connection is None:
                connection = self._kind(**self._settings)
            return connection.call(packed(words))
        finally:
            self.places.give_back(connection)


def _limited(pool: Any) -> Any:
    """Return the pool's class of connections, whose every wait takes no longer than what its call has left."""
    kind, given = pool.connection_class, pool.connection_kwargs
    # redis-py would ask one that has rested for so long whether it is well, and connect again by itself.
    rest = given.get("health_check_interval") or math.inf

    class Limited(kind):  # type: ignore[misc, valid-type]
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings | {"health_check_interval": 0})
            self._used_at = -math.inf

        def call(self, command: bytes) -> Any:
            now = monotonic()
            try:
                # redis-py has no public word for its socket. What nobody asked for may have come with the last answer.
                has_rested = now - self._used_at > rest
                if self._sock is None or has_rested or self._answers.has_data() or has_ended(self._sock):
                    self.disconnect()
                    self.connect()
                self._used_at = now
                self._wire().sendall(command)
                return self.read_response()
            except ResponseError as error:
                # It was the master: the next connection may find who is that by now.
                if isinstance(error, ReadOnlyError):
                    self.disconnect()
                raise
            except BaseException as error:
                self.disconnect()
                if isinstance(error, OSError) and not isinstance(error, TimeoutError):
                    raise ConnectionError(str(error)) from error
                raise

        def connect(self) -> None:
            for name in ("socket_timeout", "socket_connect_timeout"):
                setattr(self, name, min(given[name], left()))
            super().connect()

        def disconnect(self, *arguments: Any, **options: Any) -> None:
            self._answers = Answers()
            super().disconnect(*arguments, **options)

        # redis-py's own counts the limit anew at each piece of an answer.
        def read_response(self, **_: object) -> Any:
            while (said := self._answers.gets()) is NOT_YET or type(said) is Notice:
                if said is NOT_YET:
                    piece = self._wire().recv(_PIECE)
                    if not piece:
                        raise ConnectionError("the server ended the connection")
                    self._answers.feed(piece)
            if isinstance(said, RedisError):
                try:
                    raise said
                finally:
                    # Else the error has itself in one of its frames, and keeps the connection open after its store.
                    del said
            return said

        def _wire(self) -> Any:
            self._sock.settimeout(min(given["socket_timeout"], next_wait()))
            return self._sock

    return Limited
