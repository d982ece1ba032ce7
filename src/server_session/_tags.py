"""Values that JSON lacks: how each is written as text under a tag, and what to store in the place of others."""

import base64
import enum
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any, Final, NamedTuple
from uuid import UUID

import msgspec


class RefusedError(Exception):
    """Why a value will not be written. The places it passes on its way up are gathered, innermost first."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.places: list[str] = []


# Scalars that JSON lacks: how each is written as text, and read.


def _zone_suffix(zone: tzinfo | None) -> str:
    """Return what follows ISO 8601 for a zone: nothing for those that an offset describes, else its key."""
    if zone is None:
        return ""
    if type(zone) is timezone:
        offset = zone.utcoffset(None)
        if offset.microseconds:
            # datetime.fromisoformat reads those under a second as UTC.
            raise RefusedError("a datetime.timezone with a fraction of a second; use whole seconds")
        if zone.tzname(None) == timezone(offset).tzname(None):
            return ""
        raise RefusedError("a datetime.timezone with a name of its own would lose it; use datetime.timezone(offset)")
    from zoneinfo import ZoneInfo

    if type(zone) is not ZoneInfo:
        raise RefusedError(
            f"a time zone of type {type_name(type(zone))} would not come back as one; "
            "use datetime.timezone or zoneinfo.ZoneInfo"
        )
    # A zone is kept by its key only where the key gives this very object back: two datetimes of different zone objects
    # compare otherwise (never equal, in the hour that a clock repeats).
    try:
        if zone.key is not None and ZoneInfo(zone.key) is zone:
            return f"[{zone.key}]"
    except (ValueError, LookupError, OSError):
        pass
    raise RefusedError("a ZoneInfo that its key does not lead back to; use zoneinfo.ZoneInfo(key)")


def _write_moment(value: datetime | time) -> str:
    suffix = _zone_suffix(value.tzinfo)
    text = (value.replace(tzinfo=None) if suffix else value).isoformat()
    return f"{text}{suffix}[fold=1]" if value.fold else text + suffix


def _read_moment(kind: type[datetime] | type[time], text: str) -> datetime | time:
    fold = text.endswith("[fold=1]")
    text, bracket, key = text.removesuffix("[fold=1]").partition("[")
    value = kind.fromisoformat(text)
    if bracket:
        from zoneinfo import ZoneInfo

        value = value.replace(tzinfo=ZoneInfo(key.removesuffix("]")))
    return value.replace(fold=1) if fold else value


def _write_timedelta(value: timedelta) -> str:
    return f"P{value.days}DT{value.seconds}.{value.microseconds:06}S"


def _read_timedelta(text: str) -> timedelta:
    days, _, clock = text.removeprefix("P").removesuffix("S").partition("DT")
    seconds, _, microseconds = clock.partition(".")
    return timedelta(int(days), int(seconds), int(microseconds))


def _write_decimal(value: Decimal) -> str:
    if not value.is_finite():
        raise RefusedError(f"Decimal({str(value)!r}) is not a number; use None")
    # The current context may ask for a small e.
    return str(value).upper()


def _read_markup(text: str) -> object:
    from markupsafe import Markup

    return Markup(text)  # noqa: S704 - it was markup when it was written: what looks like its tag is escaped


class Tag(NamedTuple):
    name: str
    write: Callable[[Any], str]
    read: Callable[[str], object]


_TAGS: Final[dict[type, Tag]] = {
    int: Tag("$int", hex, lambda text: int(text, 16)),
    datetime: Tag("$datetime", _write_moment, lambda text: _read_moment(datetime, text)),
    date: Tag("$date", date.isoformat, date.fromisoformat),
    time: Tag("$time", _write_moment, lambda text: _read_moment(time, text)),
    timedelta: Tag("$timedelta", _write_timedelta, _read_timedelta),
    UUID: Tag("$uuid", str, UUID),
    Decimal: Tag("$decimal", _write_decimal, Decimal),
    bytes: Tag("$bytes", lambda value: base64.b64encode(value).decode("ascii"), base64.b64decode),
}
# Markup is text that templates insert as it is (Jinja2's and Flask's; what Flask flashes may be that).
_MARKUP: Final = Tag("$markup", str.__str__, _read_markup)
_TAGS_BY_NAME: Final = {tag.name: tag for tag in (*_TAGS.values(), _MARKUP)}


def tag_of(kind: type) -> Tag | None:
    # A value can be markup only where markupsafe was imported, so it is not imported here.
    return _TAGS.get(kind) or (_MARKUP if kind is getattr(sys.modules.get("markupsafe"), "Markup", None) else None)


def read_tag(name: str, text: str) -> object:
    """Return the value that stands as this text under a tag. Raises `ValueError`, or `ImportError` for markup."""
    tag = _TAGS_BY_NAME.get(name)
    if tag is not None:
        try:
            value = tag.read(text)
            # The readers of the standard library take many spellings. Only what would have been written is read.
            if tag.write(value) == text:
                return value
        except (ValueError, ArithmeticError, LookupError, OSError, RefusedError):
            pass
    raise ValueError(f"a malformed tag {name[:32]!r}")


# What is refused, and what to store in its place: `{}` is the type's own name.

_MENDS: Final[tuple[tuple[str, tuple[type, ...]], ...]] = (
    ("value.value", (enum.Enum,)),
    ("{}(value)", (bytes, Decimal)),
    ("{}.fromisoformat(value.isoformat())", (datetime, date, time)),
    ("timedelta(value.days, value.seconds, value.microseconds)", (timedelta,)),
    ("UUID(int=value.int)", (UUID,)),
    ("bytes(value)", (bytearray, memoryview)),
    ("set(value)", (AbstractSet,)),
    ("dict(value)", (Mapping,)),
    ("msgspec.structs.asdict(value)", (msgspec.Struct,)),
    ("list(value)", (Sequence, Iterator)),
)
_MENDS_BY_ATTRIBUTE: Final = {
    "model_dump": "value.model_dump()",
    "__dataclass_fields__": "dataclasses.asdict(value)",
    "__attrs_attrs__": "attrs.asdict(value)",
}


def why_refused(value: object) -> str:
    # The value itself is not quoted: it may be a secret, and this text reaches logs.
    kind = type(value)
    if kind is float:
        return f"{value} is not a number that JSON has; use None"
    mends = [mend.format(base.__name__) for mend, bases in _MENDS for base in bases if issubclass(kind, base)]
    mends += [mend for attribute, mend in _MENDS_BY_ATTRIBUTE.items() if hasattr(kind, attribute)]
    mend = mends[0] if mends else "what it is made from, or its id,"
    return f"a value of type {type_name(kind)} would not come back as one; store {mend} instead"


def type_name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
