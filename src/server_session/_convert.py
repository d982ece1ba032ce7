"""A session's data as a type that the application names, checked."""

import re
from typing import Any, TypeVar

import msgspec

from server_session.exceptions import DataTypeError

T = TypeVar("T")


class _MisfitError(ValueError):
    """What a model says: the place inside its value, and the reason."""


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
        raise _MisfitError(place, first["msg"] + (f" (and {len(more)} more)" if more else "")) from None
    return model


_AT = re.compile(r"(?P<reason>.*) - at (?P<key>`key` in )?`\$(?P<place>.*)`", re.DOTALL)


def convert(value: object, as_type: type[T], where: str = "") -> T:
    """Check a session's data, or the value that was under the key `where`, against a type; return it as that type.

    It is msgspec's strict rules that hold (missing keys without a default are errors; others are left out, unless the
    class forbids them), or those of a class that has `model_validate`. Raises `DataTypeError`, which names the field,
    and `TypeError` for a type with which msgspec cannot work.
    """
    try:
        return msgspec.convert(value, as_type, dec_hook=_validate_by_model)
    except msgspec.ValidationError as error:
        at = _AT.fullmatch(str(error))
        place, reason = (at["place"], at["reason"]) if at else ("", str(error))
        cause = error.__cause__
        if isinstance(cause, _MisfitError):
            inner, reason = cause.args
            place += inner
        elif cause is None:
            reason = reason[:1].lower() + reason[1:].replace("`", "")
        if at and at["key"]:
            reason += ", as a key"
        field = (where + place).removeprefix(".") or "the session's data"
        raise DataTypeError(f"{field}: {reason}") from error
