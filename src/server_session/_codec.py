"""Session values as JSON text, and back.

What goes in comes out equal and of the same type, or is refused before anything is written.
JSON has no dates, no tuples, no bytes: they are written as an object of one key that names the type,
`{"$uuid": "…"}`. A dict of the user's that looks like one is wrapped in `{"$dict": …}`.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NoReturn, TypeGuard, TypeVar

import msgspec

from server_session._tags import TAGS_BY_NAME, RefusedError, Tag, tag_of, type_name, why_refused
from server_session.exceptions import RecordError, SerializationError

__all__ = [
    "MAX_DEPTH",
    "MAX_NAME_BYTES",
    "RESERVED",
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


# The way in.


def _to_json(value: Any, room: int) -> Any:
    """Return what the encoder shall write: the value itself wherever JSON has it, else a copy with tags."""
    kind = type(value)
    if kind in _ATOMS or (kind is int and _MIN_INT <= value <= _MAX_INT) or (kind is float and math.isfinite(value)):
        return value
    write_container = _CONTAINERS.get(kind)
    if write_container is not None:
        if not room:
            raise RefusedError(f"{_TOO_DEEP}, or a container that contains itself")
        return write_container(value, room - 1)
    tag = tag_of(kind)
    if tag is not None:
        return {tag.name: tag.write(value)}
    raise RefusedError(why_refused(value))


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
    except RefusedError as refused:
        refused.places.append(f"[{key!r}]")
        raise
    raise RefusedError(f"a key of type {type_name(type(key))}, where only text comes back as it was; use str(key)")


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
    except RefusedError as refused:
        refused.places.append(f"[{index}]")
        raise
    return value if written is None else written


def _tuple_to_json(value: tuple[Any, ...], room: int) -> dict[str, Any]:
    return {"$tuple": _items_to_json(value, room)}


def _set_to_json(value: set[Any], room: int) -> dict[str, Any]:
    # Equal sets iterate in different orders. Their text is compared to see a change, so it must be one text.
    try:
        texts = sorted([_encode(_to_json(item, room)) for item in value])
    except RefusedError as refused:
        refused.places.append("{…}")
        raise
    return {"$set": [msgspec.Raw(text) for text in texts]}


_CONTAINERS: dict[type, Callable[[Any, int], Any]] = {
    dict: _dict_to_json,
    list: _items_to_json,
    tuple: _tuple_to_json,
    set: _set_to_json,
}


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
            finite Decimal, bytes, tuple, set or markupsafe's Markup: of exactly these types, in one another to 64
            levels.

    Returns:
        The text, in UTF-8. Equal values of equal types and equal order of keys have equal texts, sets too.

    Raises:
        SerializationError: The value would not come out equal and of the same type.
    """
    try:
        return _encode(_to_json(value, MAX_DEPTH))
    except RefusedError as refused:
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
    _check_keys(data)
    fields: dict[str, bytes] = {}
    try:
        for key, value in data.items():
            fields[key] = _encode(value if type(value) in _ATOMS else _to_json(value, MAX_DEPTH))
    except (RefusedError, UnicodeEncodeError):
        # It is found again, one by one, to be named.
        return {key: encode_value(key, value) for key, value in data.items()}
    return fields


def _check_keys(keys: Iterable[object]) -> None:
    """Raise `SerializationError` for a key that a session cannot have."""
    known = _known_keys
    for key in keys:
        if key not in known or type(key) is not str:
            _check_key(key)
            if len(known) < _KNOWN_KEYS_AT_MOST:
                known.add(key)


# An application has few names for its keys, and writes them again and again.
_known_keys: Final[set[object]] = set()
_KNOWN_KEYS_AT_MOST: Final = 1024


def is_key(key: object) -> TypeGuard[str]:
    """Tell whether a session can have this key."""
    return _why_no_key(key) is None


def _check_key(key: object) -> None:
    reason = _why_no_key(key)
    if reason is not None:
        raise SerializationError(key, "", reason)


def _why_no_key(key: object) -> str | None:
    if type(key) is not str:
        return f"the key is of type {type_name(type(key))}; use text"
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
    elif name in TAGS_BY_NAME and type(content) is str:
        return _read_scalar(TAGS_BY_NAME[name], content)
    raise ValueError(f"a malformed tag {name[:32]!r}")


def _read_scalar(tag: Tag, text: str) -> object:
    try:
        value = tag.read(text)
        # The readers of the standard library take many spellings. Only what would have been written is read.
        if tag.write(value) == text:
            return value
    except (ValueError, ArithmeticError, LookupError, OSError, RefusedError):
        pass
    raise ValueError(f"a malformed tag {tag.name!r}")


# MsgspecError is a ValueError in newer msgspec only. RecursionError is the decoder's own bound on depth. ImportError is
# markup where there is no markupsafe.
_UNREADABLE = (ValueError, msgspec.MsgspecError, RecursionError, ImportError)


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
        for name in fields:
            text = fields[name]
            value = _decode(text)
            # Most texts have no tag and are too short to be nested too deep.
            if _MARK_IN_TEXT in text or text[2 * MAX_DEPTH :]:
                value = value if _is_plain(text) else _read_tags(value, text)
            data[name] = value
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
