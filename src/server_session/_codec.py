"""Session values as JSON text, and back.

What goes in comes out equal and of the same type, or is refused before anything is written.
(What is of a subclass of JSON's types, or of tuple, comes out as that type.)
JSON has no dates, no tuples, no bytes: they are written as an object of one key that names the type,
`{"$uuid": "…"}`. A dict of the user's that looks like one is wrapped in `{"$dict": …}`.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeGuard

import msgspec

from server_session._tags import RefusedError, read_tag, tag_of, type_name, why_refused
from server_session.exceptions import RecordError, SerializationError

RESERVED: Final = "\x00"
"""What the names of the core's own fields begin with; refused to users."""

MAX_DEPTH: Final = 64
"""How many containers may lie inside one another. The bound also stops at a container that contains itself."""

MAX_NAME_BYTES: Final = 255

_TOO_DEEP: Final = f"nested deeper than {MAX_DEPTH} levels"

_MARK: Final = "$"
_MARK_IN_TEXT: Final = b'"$'

# Beyond 64 bits other readers of JSON round, and Python itself reads only so many decimal digits.
_MIN_INT: Final = -(2**63)
_MAX_INT: Final = 2**64 - 1

_ATOMS: Final[frozenset[type]] = frozenset({str, bool, type(None)})
# Where the encoder has met a lone surrogate, each text is looked at.
_ATOMS_BUT_TEXT: Final = _ATOMS - {str}
_NESTED: Final[frozenset[type]] = frozenset({dict, list})

# Packages whose users cannot change it keep such values in sessions. Whatever a subclass shows, its content is taken;
# but of a form, which has lists of values, what it gives for a name: the frameworks' own sessions keep that.
_CONTENT_OF: Final[Mapping[type, Callable[[Any], Any]]] = {
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
    dict: lambda value: {key: value[key] for key in dict.keys(value)},
    list: list.copy,
    tuple: lambda value: tuple(tuple.__iter__(value)),
}

_has_surrogate = re.compile("[\ud800-\udfff]").search
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode

# Keys that were checked and are good: an application has few, and writes them again and again.
_known_keys: Final[set[object]] = set()
_KNOWN_KEYS_AT_MOST: Final = 1024


# The way in.


def _to_json(value: Any, levels: int, plain: frozenset[type] = _ATOMS) -> Any:
    """Return what the encoder writes, at most `levels` deep: the value itself if JSON has it, else a tagged copy."""
    kind = type(value)
    if kind in plain or (kind is int and _MIN_INT <= value <= _MAX_INT) or (kind is float and math.isfinite(value)):
        return value
    if kind not in _NESTED:
        return _tagged(value, levels, plain)
    if not levels:
        raise RefusedError(f"{_TOO_DEEP}, or a container that contains itself")
    is_dict, looks_at_text = kind is dict, plain is _ATOMS_BUT_TEXT
    place_kind: Any = str if is_dict else int
    parts: Any = value.items() if is_dict else enumerate(value)
    written = value
    place: Any = ""
    try:
        for place, part in parts:
            if type(place) is not place_kind:
                break
            if looks_at_text:
                _to_json(place, levels, plain)
            kind = type(part)
            if kind in plain or (kind is int and _MIN_INT <= part <= _MAX_INT):
                continue
            new = _to_json(part, levels - 1, plain)
            if new is not part:
                if written is value:
                    written = value.copy()
                written[place] = new
        else:
            return {"$dict": written} if is_dict and len(value) == 1 and place.startswith(_MARK) else written
    except RefusedError as refused:
        refused.places.append(f"[{place!r}]")
        raise
    raise RefusedError(f"a key of type {type_name(type(place))}, where only text comes back as it was; use str(key)")


def _tagged(value: Any, levels: int, plain: frozenset[type]) -> Any:
    kind = type(value)
    if kind is tuple:
        return {"$tuple": _to_json([*value], levels, plain)}
    if kind is set:
        try:
            texts = [_encode(part) for part in _to_json([*value], levels, plain)]
        except RefusedError as refused:
            refused.places[-1:] = ["{…}"] if refused.places else []
            raise
        # Equal sets iterate in different orders. Their text is compared to see a change, so it must be one text.
        return {"$set": [msgspec.Raw(text) for text in sorted(texts)]}
    if kind is str:
        if _has_surrogate(value):
            raise RefusedError("text with a lone surrogate, which is no character; decode it anew")
        return value
    if (tag := tag_of(kind)) is not None:
        return {tag.name: _to_json(tag.write(value), levels, plain)}
    for base in kind.__mro__[1:]:
        if base in _CONTENT_OF:
            return _to_json(_CONTENT_OF[base](value), levels, plain)
    raise RefusedError(why_refused(value))


def encode_value(key: str, value: object) -> bytes:
    """Write one value as JSON text in UTF-8. Equal values of equal types and order of keys have one text, sets too.

    Raises `SerializationError`, which names `key`, for what would not come out equal.
    """
    try:
        try:
            return _encode(_to_json(value, MAX_DEPTH))
        except UnicodeEncodeError:
            return _encode(_to_json(value, MAX_DEPTH, _ATOMS_BUT_TEXT))
    except RefusedError as refused:
        raise SerializationError(key, "".join(reversed(refused.places)), str(refused)) from None


def encode_fields(data: Mapping[str, object]) -> dict[str, bytes]:
    """Write a session's data as the fields of a record, in order; raises `SerializationError` for a key likewise."""
    fields: dict[str, bytes] = {}
    try:
        for key, value in data.items():
            if key not in _known_keys or type(key) is not str:
                _learn_key(key)
            fields[key] = _encode(value if type(value) in _ATOMS else _to_json(value, MAX_DEPTH))
    except (RefusedError, UnicodeEncodeError):
        # Once more, one by one: the error names the key.
        return {key: encode_value(key, value) for key, value in data.items()}
    return fields


def _learn_key(key: object) -> None:
    if (reason := _why_no_key(key)) is not None:
        raise SerializationError(key, "", reason)
    if len(_known_keys) < _KNOWN_KEYS_AT_MOST:
        _known_keys.add(key)


def is_key(key: object) -> TypeGuard[str]:
    """Tell whether a session can have this key."""
    return _why_no_key(key) is None


def _why_no_key(key: object) -> str | None:
    if type(key) is not str:
        return f"the key is of type {type_name(type(key))}; use text"
    if not key:
        return "the key is empty"
    if key.startswith(RESERVED):
        return "the key begins with NUL, which is reserved"
    if _has_surrogate(key):
        return "the key has a lone surrogate, which is no character"
    if len(key.encode()) > MAX_NAME_BYTES:
        return f"the key is longer than {MAX_NAME_BYTES} bytes of UTF-8"
    return None


# The way out.


def _is_plain(text: bytes) -> bool:
    """Tell whether the text of a dict or list holds no tag, and has too few bytes or brackets to be nested too deep."""
    if text.find(_MARK_IN_TEXT) >= 0:
        return False
    return len(text) <= 2 * MAX_DEPTH or text.count(b"[") + text.count(b"{") <= MAX_DEPTH


def _from_json(value: Any, levels: int) -> Any:
    """Return the value with its tags read. What the decoder made is the caller's own and is changed in place."""
    kind = type(value)
    if kind not in _NESTED:
        return value
    if kind is dict and len(value) == 1:
        ((name, content),) = value.items()
        if name.startswith(_MARK):
            return _from_tagged(name, content, levels)
    if not levels:
        raise ValueError(_TOO_DEEP)
    for place, part in value.items() if kind is dict else enumerate(value):
        if type(part) in _NESTED:
            value[place] = _from_json(part, levels - 1)
    return value


def _from_tagged(name: str, content: Any, levels: int) -> object:
    kind = type(content)
    if name == "$tuple" and kind is list:
        return tuple(_from_json(content, levels))
    if name == "$set" and kind is list:
        items = _from_json(content, levels)
        try:
            if len(elements := set(items)) == len(items):
                return elements
        except TypeError:
            raise ValueError("a $set of what cannot be in a set") from None
    if name == "$dict" and kind is dict and len(content) == 1 and levels:
        ((key, item),) = content.items()
        if key.startswith(_MARK):
            return {key: _from_json(item, levels - 1)}
    if kind is str:
        return read_tag(name, content)
    raise ValueError(f"a malformed tag {name[:32]!r}")


# MsgspecError is a ValueError in newer msgspec only. RecursionError is the decoder's own bound on depth. ImportError is
# markup where there is no markupsafe.
UNREADABLE: Final = (ValueError, msgspec.MsgspecError, RecursionError, ImportError)


def decode_value(key: str, text: bytes) -> Any:
    """Read one field of a record; raises `RecordError`, which names it, for what `encode_value` does not write."""
    try:
        value = _decode(text)
        return value if type(value) not in _NESTED or _is_plain(text) else _from_json(value, MAX_DEPTH)
    except UNREADABLE as error:
        reason = _TOO_DEEP if isinstance(error, RecursionError) else error
        raise RecordError(f"record field {key!r} cannot be read: {reason}") from None


def decode_fields(fields: Mapping[str, bytes]) -> dict[str, Any]:
    """Read all fields of a record, in order. What is returned is the caller's own. Raises `RecordError` likewise."""
    # Each text is decoded alone, so that none can reach into its neighbour; joined into one text for a single call
    # of the decoder they could, and to join them takes longer than the calls saved.
    data: dict[str, Any] = {}
    try:
        for name in fields:
            text = fields[name]
            value = _decode(text)
            data[name] = value if type(value) not in _NESTED or _is_plain(text) else _from_json(value, MAX_DEPTH)
    except UNREADABLE:
        # Once more, one by one: the error names the field.
        return {name: decode_value(name, text) for name, text in fields.items()}
    return data
