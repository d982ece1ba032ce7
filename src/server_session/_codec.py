"""Session values as JSON text, and back.

What goes in comes out equal and of the same type, or is refused before anything is written.
JSON has no dates, no tuples, no bytes: they are written as an object of one key that names the type,
`{"$uuid": "…"}`. A dict of the user's that looks like one is wrapped in `{"$dict": …}`.
"""

import base64
import enum
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any, Final, NamedTuple, NoReturn, TypeGuard, TypeVar
from uuid import UUID

import msgspec

from server_session.exceptions import DataTypeError, RecordError, SerializationError

__all__ = [
    "MAX_DEPTH",
    "MAX_NAME_BYTES",
    "RESERVED",
    "convert",
    "decode_fields",
    "decode_value",
    "encode_fields",
    "encode_value",
    "is_key",
]

T = TypeVar("T")

RESERVED: Final = "\x00"
"""What the names of the core's own fields begin with; refused to users."""

MAX_DEPTH: Final = 64
"""How many containers may lie inside one another. What contains itself is found by it, too."""

MAX_NAME_BYTES: Final = 255

_TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels"

_MARK = "$"
_ESCAPE = "$dict"
_MARK_IN_TEXT = b'"$'

# Beyond 64 bits other readers of JSON round, and Python itself reads only so many decimal digits.
_MIN_INT = -(2**63)
_MAX_INT = 2**64 - 1

_ATOMS = frozenset({str, bool, type(None)})
_NESTED = frozenset({dict, list})

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class _RefusedError(Exception):
    """A value that will not be written. The places it passes on its way up are gathered, innermost first."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
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
            raise _RefusedError("a datetime.timezone with a fraction of a second; use whole seconds")
        if zone.tzname(None) == timezone(offset).tzname(None):
            return ""
        raise _RefusedError("a datetime.timezone with a name of its own would lose it; use datetime.timezone(offset)")
    # Who holds a ZoneInfo has imported it. A zone is kept by its key only where the key gives this very object back:
    # two datetimes of different zone objects compare otherwise (never equal, in the hour that a clock repeats).
    zoneinfo: Any = sys.modules.get("zoneinfo")
    known: Any = zone
    if zoneinfo is not None and type(known) is zoneinfo.ZoneInfo:
        key: str | None = known.key
        try:
            if key is not None and zoneinfo.ZoneInfo(key) is known:
                return f"[{key}]"
        except (ValueError, LookupError, OSError):
            pass
        raise _RefusedError("a ZoneInfo that its key does not lead back to; use zoneinfo.ZoneInfo(key)")
    raise _RefusedError(
        f"a time zone of type {_type_name(type(zone))} would not come back as one; "
        "use datetime.timezone or zoneinfo.ZoneInfo"
    )


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
        raise _RefusedError(f"Decimal({str(value)!r}) is not a number; use None")
    # The current context may ask for a small e.
    return str(value).upper()


class _Tag(NamedTuple):
    name: str
    write: Callable[[Any], str]
    read: Callable[[str], object]


_TAGS: dict[type, _Tag] = {
    int: _Tag("$int", hex, lambda text: int(text, 16)),
    datetime: _Tag("$datetime", _write_moment, lambda text: _read_moment(datetime, text)),
    date: _Tag("$date", date.isoformat, date.fromisoformat),
    time: _Tag("$time", _write_moment, lambda text: _read_moment(time, text)),
    timedelta: _Tag("$timedelta", _write_timedelta, _read_timedelta),
    UUID: _Tag("$uuid", str, UUID),
    Decimal: _Tag("$decimal", _write_decimal, Decimal),
    bytes: _Tag("$bytes", lambda value: base64.b64encode(value).decode("ascii"), base64.b64decode),
}
_TAGS_BY_NAME = {tag.name: tag for tag in _TAGS.values()}


# The way in.


def _to_json(value: Any, room: int) -> Any:
    """Return what the encoder shall write: the value itself wherever JSON has it, else a copy with tags."""
    kind = type(value)
    if kind in _ATOMS or (kind is int and _MIN_INT <= value <= _MAX_INT) or (kind is float and math.isfinite(value)):
        return value
    write_container = _CONTAINERS.get(kind)
    if write_container is not None:
        if not room:
            raise _RefusedError(f"{_TOO_DEEP}, or a container that contains itself")
        return write_container(value, room - 1)
    tag = _TAGS.get(kind)
    if tag is not None:
        return {tag.name: tag.write(value)}
    raise _RefusedError(_why_refused(value))


def _dict_to_json(value: dict[Any, Any], room: int) -> dict[str, Any]:
    written = value
    key: Any = ""
    try:
        for key, item in value.items():
            if type(key) is not str:
                break
            kind = type(item)
            if kind in _ATOMS or (kind is int and _MIN_INT <= item <= _MAX_INT):
                continue
            new = _to_json(item, room)
            if new is not item:
                if written is value:
                    written = value.copy()
                written[key] = new
        else:
            return {_ESCAPE: written} if len(value) == 1 and key.startswith(_MARK) else written
    except _RefusedError as refused:
        refused.places.append(f"[{key!r}]")
        raise
    raise _RefusedError(f"a key of type {_type_name(type(key))}, where only text comes back as it was; use str(key)")


def _items_to_json(value: Sequence[Any], room: int) -> Sequence[Any]:
    written: list[Any] | None = None
    index = 0
    try:
        for index, item in enumerate(value):
            kind = type(item)
            if kind in _ATOMS or (kind is int and _MIN_INT <= item <= _MAX_INT):
                continue
            new = _to_json(item, room)
            if new is not item:
                if written is None:
                    written = list(value)
                written[index] = new
    except _RefusedError as refused:
        refused.places.append(f"[{index}]")
        raise
    return value if written is None else written


def _tuple_to_json(value: tuple[Any, ...], room: int) -> dict[str, Any]:
    return {"$tuple": _items_to_json(value, room)}


def _set_to_json(value: set[Any], room: int) -> dict[str, Any]:
    # Equal sets iterate in different orders. Their text is compared to see a change, so it must be one text.
    try:
        texts = sorted([_encode(_to_json(item, room)) for item in value])
    except _RefusedError as refused:
        refused.places.append("{…}")
        raise
    return {"$set": [msgspec.Raw(text) for text in texts]}


_CONTAINERS: dict[type, Callable[[Any, int], Any]] = {
    dict: _dict_to_json,
    list: _items_to_json,
    tuple: _tuple_to_json,
    set: _set_to_json,
}


_MENDS: tuple[tuple[type, str], ...] = (
    (enum.Enum, "value.value"),
    # str(value) alone leaves some subclasses as they are (Django's SafeString).
    (str, "str.__str__(value)"),
    (int, "int(value)"),
    (float, "float(value)"),
    (dict, "dict(value)"),
    (list, "list(value)"),
    (tuple, "tuple(value)"),
    (AbstractSet, "set(value)"),
    (bytes, "bytes(value)"),
    (bytearray, "bytes(value)"),
    (memoryview, "bytes(value)"),
    (datetime, "datetime.fromisoformat(value.isoformat())"),
    (date, "date.fromisoformat(value.isoformat())"),
    (time, "time.fromisoformat(value.isoformat())"),
    (timedelta, "timedelta(value.days, value.seconds, value.microseconds)"),
    (Decimal, "Decimal(value)"),
    (UUID, "UUID(int=value.int)"),
    (Mapping, "dict(value)"),
    (msgspec.Struct, "msgspec.structs.asdict(value)"),
    (Sequence, "list(value)"),
    (Iterator, "list(value)"),
)
_MENDS_BY_ATTRIBUTE = {
    "model_dump": "value.model_dump()",
    "__dataclass_fields__": "dataclasses.asdict(value)",
    "__attrs_attrs__": "attrs.asdict(value)",
}


def _why_refused(value: object) -> str:
    # The value itself is not quoted: it may be a secret, and this text reaches logs.
    kind = type(value)
    if kind is float:
        return f"{value} is not a number that JSON has; use None"
    mends = [mend for base, mend in _MENDS if issubclass(kind, base)]
    mends += [mend for attribute, mend in _MENDS_BY_ATTRIBUTE.items() if hasattr(kind, attribute)]
    mend = mends[0] if mends else "what it is made from, or its id,"
    return f"a value of type {_type_name(kind)} would not come back as one; store {mend} instead"


def _type_name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _find_surrogate(value: object) -> str | None:
    """Return the place of the first text with a lone surrogate, looked for only when the encoder has met one."""
    # In the order of the writing walk, and no further than it came: what lies behind may be anything.
    if isinstance(value, str):
        return None if _is_text(value) else ""
    steps: Iterator[tuple[str, Any, Any]]
    if isinstance(value, dict):
        steps = ((f"[{key!r}]", key, item) for key, item in value.items())
    elif isinstance(value, list | tuple):
        steps = ((f"[{index}]", None, item) for index, item in enumerate(value))
    elif isinstance(value, set):
        steps = (("{…}", None, item) for item in value)
    else:
        return None
    for step, key, item in steps:
        place = "" if isinstance(key, str) and not _is_text(key) else _find_surrogate(item)
        if place is not None:
            return step + place
    return None


def encode_value(key: str, value: object) -> bytes:
    """Write one value as JSON text.

    Args:
        key: The session's key that the value is for; it is named in errors and not checked.
        value: None, bool, int, finite float, text, list, dict with text keys, datetime, date, time, timedelta, UUID,
            finite Decimal, bytes, tuple or set: of exactly these types, in one another to 64 levels.

    Returns:
        The text, in UTF-8. Equal values of equal types and equal order of keys have equal texts, sets too.

    Raises:
        SerializationError: The value would not come out equal and of the same type.
    """
    try:
        return _encode(_to_json(value, MAX_DEPTH))
    except _RefusedError as refused:
        raise SerializationError(key, "".join(reversed(refused.places)), refused.reason) from None
    except UnicodeEncodeError:
        place = _find_surrogate(value) or ""
    raise SerializationError(key, place, "text with a lone surrogate, which is no character; decode it anew")


def encode_fields(data: Mapping[str, object]) -> dict[str, bytes]:
    """Write a session's data as the fields of a record, in order.

    Args:
        data: The session's keys (text of 1 to 255 bytes of UTF-8 that does not begin with NUL) and their values.

    Raises:
        SerializationError: A key is not such a text, or a value would not come out as it went in.
    """
    fields: dict[str, bytes] = {}
    for key, value in data.items():
        if type(key) is not str or not key.isascii() or not 0 < len(key) <= MAX_NAME_BYTES or key[0] == RESERVED:
            _check_key(key)
        fields[key] = encode_value(key, value)
    return fields


def is_key(key: object) -> TypeGuard[str]:
    """Tell whether a session can have this key."""
    return _why_no_key(key) is None


def _check_key(key: object) -> None:
    reason = _why_no_key(key)
    if reason is not None:
        raise SerializationError(key, "", reason)


def _why_no_key(key: object) -> str | None:
    if type(key) is not str:
        return f"the key is of type {_type_name(type(key))}; use text"
    if not key:
        return "the key is empty"
    if key.startswith(RESERVED):
        return "the key begins with NUL, which is reserved"
    if not _is_text(key):
        return "the key has a lone surrogate, which is no character"
    if len(key.encode()) > MAX_NAME_BYTES:
        return f"the key is longer than {MAX_NAME_BYTES} bytes of UTF-8"
    return None


# The way out.


def _is_plain(text: bytes) -> bool:
    """Tell whether the text has no tag and cannot be nested too deep. Most texts are so, and need no second look."""
    return _MARK_IN_TEXT not in text and (
        len(text) <= 2 * MAX_DEPTH or text.count(b"[") + text.count(b"{") <= MAX_DEPTH
    )


def _read_tags(value: Any, text: bytes) -> Any:
    """Return what a text that is not plain holds, from what the decoder made of it."""
    if _MARK_IN_TEXT in text:
        return _from_json(value, MAX_DEPTH)
    level = [value] if type(value) in _NESTED else []
    for _ in range(MAX_DEPTH):
        level = [
            item
            for container in level
            for item in (container.values() if type(container) is dict else container)
            if type(item) in _NESTED
        ]
        if not level:
            return value
    raise ValueError(_TOO_DEEP)


def _from_json(value: Any, room: int) -> Any:
    """Return the value with its tags read. What the decoder made is the caller's own and is changed in place."""
    kind = type(value)
    if kind not in _NESTED:
        return value
    if kind is dict and len(value) == 1:
        ((name, content),) = value.items()
        if name.startswith(_MARK):
            return _read_tag(name, content, room)
    if not room:
        raise ValueError(_TOO_DEEP)
    for place, item in value.items() if kind is dict else enumerate(value):
        if type(item) in _NESTED:
            value[place] = _from_json(item, room - 1)
    return value


def _read_tag(name: str, content: Any, room: int) -> object:
    if name == _ESCAPE and type(content) is dict and len(content) == 1:
        ((key, item),) = content.items()
        if key.startswith(_MARK) and room:
            return {key: _from_json(item, room - 1)}
    elif name in {"$tuple", "$set"} and type(content) is list:
        items = _from_json(content, room)
        if name == "$tuple":
            return tuple(items)
        try:
            elements = set(items)
        except TypeError:
            raise ValueError("a $set of what cannot be in a set") from None
        if len(elements) == len(items):
            return elements
    elif name in _TAGS_BY_NAME and type(content) is str:
        return _read_scalar(_TAGS_BY_NAME[name], content)
    raise ValueError(f"a malformed tag {name[:32]!r}")


def _read_scalar(tag: _Tag, text: str) -> object:
    try:
        value = tag.read(text)
        # The readers of the standard library take many spellings. Only what would have been written is read.
        if tag.write(value) == text:
            return value
    except (ValueError, ArithmeticError, LookupError, OSError, _RefusedError):
        pass
    raise ValueError(f"a malformed tag {tag.name!r}")


# MsgspecError is a ValueError in newer msgspec only. RecursionError is the decoder's own bound on depth.
_UNREADABLE = (ValueError, msgspec.MsgspecError, RecursionError)


def _raise_unreadable(name: str, error: Exception) -> NoReturn:
    reason = _TOO_DEEP if isinstance(error, RecursionError) else error
    raise RecordError(f"record field {name!r} cannot be read: {reason}") from None


def decode_fields(fields: Mapping[str, bytes]) -> dict[str, Any]:
    """Read all fields of a record, in order. What is returned is the caller's own.

    Raises:
        RecordError: A field is not what `encode_value` writes; it is named.
    """
    data: dict[str, Any] = {}
    name = ""
    # Each text is decoded alone, so that none can reach into its neighbour; joined into one text for a single call
    # of the decoder they could, and to join them takes longer than the calls saved.
    try:
        for name, text in fields.items():
            data[name] = _decode(text)
        if not _is_plain(b"".join(fields.values())):
            for name, text in fields.items():
                if not _is_plain(text):
                    data[name] = _read_tags(data[name], text)
    except _UNREADABLE as error:
        _raise_unreadable(name, error)
    return data


def decode_value(key: str, text: bytes) -> Any:
    """Read one field of a record.

    Raises:
        RecordError: The text is not what `encode_value` writes; `key` is named.
    """
    try:
        value = _decode(text)
        return value if _is_plain(text) else _read_tags(value, text)
    except _UNREADABLE as error:
        _raise_unreadable(key, error)


# Data of a type that the application names.


class _MisfitError(ValueError):
    def __init__(self, place: str, reason: str) -> None:
        super().__init__(reason)
        self.place = place
        self.reason = reason


def _validate_by_model(kind: Any, value: object) -> object:
    """Let a model check for itself: what msgspec does not know and has `model_validate`, as pydantic's models do."""
    validate = getattr(kind, "model_validate", None)
    if validate is None:
        raise _MisfitError("", f"expected {getattr(kind, '__name__', kind)}, got {type(value).__name__}")
    try:
        model: object = validate(value)
    except ValueError as error:
        # Its own text quotes the data; the list of its errors can do without.
        errors = getattr(error, "errors", None)
        if errors is None:
            raise
        first, *more = errors()
        place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in first["loc"])
        reason = first["msg"] + (f" (and {len(more)} more)" if more else "")
        raise _MisfitError(place, reason) from None
    return model


_AT = re.compile(r"(?P<reason>.*) - at (?P<key>`key` in )?`\$(?P<place>.*)`", re.DOTALL)


def convert(value: object, as_type: type[T], where: str = "") -> T:
    """Check a session's data, or one value of it, against a type, and return it as that type.

    Args:
        value: What `decode_fields` or `decode_value` returned.
        as_type: A TypedDict, dataclass, msgspec Struct or attrs class, by msgspec's strict rules (missing keys without
            a default are errors; others are left out, unless the class forbids them), or a class that has
            `model_validate`, by its own. Any other type that msgspec knows will do too.
        where: The key that the value was under, for errors; empty for the whole data.

    Raises:
        DataTypeError: The data does not fit; the field is named.
        TypeError: msgspec cannot work with such a type.
    """
    try:
        return msgspec.convert(value, as_type, dec_hook=_validate_by_model)
    except msgspec.ValidationError as error:
        at = _AT.fullmatch(str(error))
        place, reason = (at["place"], at["reason"]) if at else ("", str(error))
        cause = error.__cause__
        if isinstance(cause, _MisfitError):
            place, reason = place + cause.place, cause.reason
        elif cause is None:
            reason = reason[:1].lower() + reason[1:].replace("`", "")
        if at and at["key"]:
            reason += ", as a key"
        field = (where + place).removeprefix(".") or "the session's data"
        raise DataTypeError(f"{field}: {reason}") from error
