"""The core's own fields in a record, by name.

They share the mapping with the user's fields, under a prefix that the codec refuses to users, as JSON text.
"""

import base64
import hashlib
import os
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Final, NamedTuple, TypeAlias, TypeVar

import msgspec

from server_session._base64url import base64url
from server_session._codec import RESERVED, encode_value
from server_session.exceptions import RecordError
from server_session.stores._base import Lifetime, SessionStore

T = TypeVar("T")

DIGEST: Final = RESERVED + "digest"
"""The digest of the credential that holds. An ended session's mark has none."""
FORMER: Final = RESERVED + "former"
"""The digest that the last renewal swapped out, and when: `["…", seconds]`."""
CREATED: Final = RESERVED + "created"
"""When the session was founded, in seconds since the epoch."""
OUTSTANDING: Final = RESERVED + "outstanding"
"""The CSRF tokens that pass once, given out and not yet used: a list of short names."""
OWNER: Final = RESERVED + "owner"
"""Whose session it is, as `log_in` was told."""
AUTHENTICATED: Final = RESERVED + "authenticated"
"""When the user last proved who they are, in seconds since the epoch."""
LIFE: Final = RESERVED + "life"
"""What renewals asked of this session's life: `[idle seconds, seconds from its founding, persistent]`, or null."""
LONGEST: Final = RESERVED + "longest"
"""In an owner's list alone: the most seconds from its log-in that any listed session can live."""
STAMP: Final = RESERVED + "stamp"
"""Renewed by each write: its second and random text. Whoever depends on all fields expects it to be unchanged."""
ENDED: Final = RESERVED + "ended"
"""When the session was ended, in seconds since the epoch. It stands alone in the mark."""

CLAIM: Final = RESERVED + "claim"
"""In a claim alone: which session takes the place of another library's, and random text: `["…", "…"]`."""
TAKEN: Final = RESERVED + "taken"
"""In a claim alone: when that was done, in seconds since the epoch."""

MARK_SECONDS: Final = 60.0
"""For how long an ended session leaves its mark, and a swapped-out digest is known again."""

MARK_LIFETIME: Final = Lifetime(MARK_SECONDS, MARK_SECONDS)

# All names of users sort behind those of the core.
_FIRST_OF_USERS: Final = chr(ord(RESERVED) + 1)

_END_OF_TIME: Final = datetime(9999, 12, 31, tzinfo=UTC).timestamp()

_TIME: Final = msgspec.json.Decoder(float).decode
_TEXT: Final = msgspec.json.Decoder(str).decode
_Base64url: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_-]*\Z")]
_NAMES: Final = msgspec.json.Decoder(list[_Base64url]).decode
_FORMER: Final = msgspec.json.Decoder(tuple[str, float]).decode
_LIFE: Final = msgspec.json.Decoder(tuple[float | None, float | None, bool | None]).decode
_CLAIM: Final = msgspec.json.Decoder(tuple[_Base64url, _Base64url]).decode

_is_stamp = re.compile(rb'"[A-Za-z0-9_-]{12}"').fullmatch


class Life(NamedTuple):
    """What renewals asked of one session's life; `None` is as the settings have it. Times in seconds."""

    idle: float | None = None
    absolute: float | None = None
    """The age, from its founding, at which it ends."""
    persistent: bool | None = None
    """Whether the browser keeps the cookie after it closes."""

    def then(self, later: "Life") -> "Life":
        """Return what holds after a later renewal: what it asks for, and for the rest what held before."""
        return self._replace(**{name: asked for name, asked in later._asdict().items() if asked is not None})

    def field(self) -> bytes:
        """Return the field that keeps it."""
        return encode_value("life", list(self))


AS_CONFIGURED: Final = Life()


def key_of(label: bytes, name: str) -> str:
    """Return the key of a record that is found by a name; the label tells records of its kind from others."""
    digest = hashlib.sha256(label + name.encode("utf-8", "surrogatepass")).digest()
    return base64url(digest[: SessionStore.key_bytes]).decode("ascii")


def first_of(digest: bytes, now: float, asked: Life = AS_CONFIGURED) -> dict[str, bytes]:
    """Return the core's own fields of a session that is founded now; `asked` is what a renewal asks of its life."""
    own = {DIGEST: digest, CREATED: number(now), STAMP: fresh_stamp(now)}
    return own if asked == AS_CONFIGURED else {**own, LIFE: asked.field()}


def mark_of(now: float) -> dict[str, bytes]:
    """Return the record that an ended session leaves."""
    # No bare delete: the mark is what a late write meets, and what tells ended from unknown.
    return {ENDED: number(now)}


def user_fields(fields: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the fields that are the user's."""
    return {name: fields[name] for name in fields if name >= _FIRST_OF_USERS}


def number(value: float) -> bytes:
    """Return a time in seconds as JSON text, to the millisecond."""
    return b"%.3f" % value


def life_of(fields: Mapping[str, bytes]) -> Life:
    """Return what renewals asked of this record's life. Raises `RecordError`."""
    return Life(*_read(LIFE, fields, _LIFE)) if LIFE in fields else AS_CONFIGURED


def time_of(fields: Mapping[str, bytes], name: str) -> float:
    """Return the time that one of the core's fields holds, in seconds since the epoch. Raises `RecordError`."""
    time = _read(name, fields, _TIME)
    if not 0 <= time < _END_OF_TIME:
        raise RecordError(f"record field {name!r} cannot be read: it is no time")
    return time


def owner_of(fields: Mapping[str, bytes]) -> str:
    """Return whose session it is. Raises `RecordError`."""
    return _read(OWNER, fields, _TEXT)


def claim(selector: str, nonce: bytes) -> bytes:
    """Return the field of a claim for the session of this selector."""
    return encode_value("claim", [selector, base64url(nonce).decode("ascii")])


def claim_of(fields: Mapping[str, bytes]) -> tuple[str, str]:
    """Return the selector and the random text of a claim. Raises `RecordError`."""
    return _read(CLAIM, fields, _CLAIM)


def outstanding_of(fields: Mapping[str, bytes]) -> list[str]:
    """Return the names of the tokens that pass once and were not used yet. Raises `RecordError`."""
    return _read(OUTSTANDING, fields, _NAMES) if OUTSTANDING in fields else []


def _read(name: str, fields: Mapping[str, bytes], decode: Callable[[bytes], T]) -> T:
    # Who can write to the store can write nonsense here; it is a record that cannot be read, and nothing else.
    try:
        return decode(fields.get(name, b""))
    except (ValueError, msgspec.MsgspecError) as error:
        raise RecordError(f"record field {name!r} cannot be read: {error}") from None


def fresh_stamp(now: float) -> bytes:
    """Return a stamp that no earlier write had, for a write at this time."""
    return b'"' + base64url((int(now) & 0xFFFFFFFF).to_bytes(4, "big") + os.urandom(5)) + b'"'


def stamped_at(fields: Mapping[str, bytes]) -> float | None:
    """Return the second of the record's last write, or `None` where its stamp does not tell."""
    stamp = fields.get(STAMP, b"")
    return float(int.from_bytes(base64.urlsafe_b64decode(stamp[1:-1])[:4], "big")) if _is_stamp(stamp) else None


def former_of(digest: bytes, now: float) -> bytes:
    """Return the field that remembers a digest swapped out now."""
    return b"[" + digest + b"," + number(now) + b"]"


def secret_since(fields: Mapping[str, bytes]) -> float:
    """Return when the session got its present verifier, in seconds since the epoch: its last swap, or its founding."""
    created = time_of(fields, CREATED)
    return max(created, _read(FORMER, fields, _FORMER)[1]) if FORMER in fields else created


def was_former(fields: Mapping[str, bytes], digest: bytes, now: float) -> bool:
    """Tell whether this digest was swapped out of the record within the last minute."""
    is_it = fields.get(FORMER, b"").startswith(b"[" + digest + b",")
    return is_it and now - _read(FORMER, fields, _FORMER)[1] < MARK_SECONDS
