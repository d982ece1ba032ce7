"""A session as its row holds it."""

import secrets
from dataclasses import dataclass

import msgspec

from server_session.exceptions import RecordError
from server_session.stores._base import Expect, Fields

__all__ = ["Seen", "fresh_stamp", "holds", "pack"]

pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(dict[str, bytes]).decode


@dataclass(frozen=True, slots=True)
class Seen:
    """A row as it was read."""

    stamp: int
    idle: float
    deadline: float | None
    expires: float
    now: float
    data: bytes

    @property
    def is_over(self) -> bool:
        return self.expires <= self.now

    @property
    def touched(self) -> float:
        """When it would expire if it were touched now."""
        soonest = self.now + self.idle
        return max(self.expires, soonest if self.deadline is None else min(soonest, self.deadline))

    def fields(self) -> Fields:
        try:
            return _unpack(self.data)
        except msgspec.MsgspecError as error:
            raise RecordError(
                "the row of a session cannot be read: its data was damaged, or written by something else"
            ) from error


def fresh_stamp() -> int:
    """Return the number that a write leaves in its row."""
    # Not from `random`: forked processes would draw the same numbers, and take each other's writes for their own.
    return secrets.randbits(63)


def holds(expect: Expect, fields: Fields) -> bool:
    """Whether these fields are as expected."""
    return all(fields.get(name) == value for name, value in expect.items())
