"""The bounds of a session: how many keys, and how many bytes of them."""

from collections.abc import Collection, Mapping
from typing import Final

from server_session._codec import MAX_NAME_BYTES
from server_session._policy import Policy
from server_session._record import user_fields
from server_session.exceptions import LimitError
from server_session.stores._base import Fields

# A write smaller than this part of a bound is not worth a look at what is there.
_LARGE: Final = 1 / 16
_NAMED_AT_MOST: Final = 5
_NAME_LENGTH: Final = 100


def is_large(policy: Policy, changed: Mapping[str, bytes]) -> bool:
    """Tell whether a write is worth a look at what is there."""
    return len(changed) > policy.max_fields * _LARGE or _bytes_of(changed) > policy.max_bytes * _LARGE


def require_bounds(policy: Policy, before: Fields, changed: Mapping[str, bytes], removed: Collection[str] = ()) -> None:
    """Raise `LimitError` if these changes would make a session grow beyond its bounds."""
    if excess := excess_of(policy, before, changed, removed):
        raise LimitError(f"{excess}; nothing was written. Keep it elsewhere and its id here, or raise the bound")


def excess_of(policy: Policy, before: Fields, changed: Mapping[str, bytes], removed: Collection[str]) -> str | None:
    """Say by what these changes would make a session grow beyond its bounds; `before` is what is known of it."""
    # Most are within them even if nothing is removed or written over, all names are long, and the core's fields count.
    count = len(before) + len(changed)
    size = count * MAX_NAME_BYTES + sum(map(len, before.values())) + sum(map(len, changed.values()))
    if count <= policy.max_fields and size <= policy.max_bytes:
        return None
    news, was = user_fields(changed), user_fields(before)
    will_be = {name: value for name, value in was.items() if name not in removed} | news
    fields, size = len(will_be), _bytes_of(will_be)
    # To make a session smaller is allowed, however large it is still.
    if fields > policy.max_fields and fields > len(was):
        fresh = _named(news.keys() - was.keys(), news)
        return f"{fresh}: the session would have {fields} keys, above max_fields={policy.max_fields}"
    if size > policy.max_bytes and size > _bytes_of(was):
        return f"{_named(news, news)}: the session would take {size} bytes, above max_bytes={policy.max_bytes}"
    return None


def _named(names: Collection[str], fields: Mapping[str, bytes]) -> str:
    sizes = sorted(((_bytes_of({name: fields[name]}), name) for name in names), reverse=True)
    named = ", ".join(f"{name[:_NAME_LENGTH]!r} ({size} bytes)" for size, name in sizes[:_NAMED_AT_MOST])
    more = len(sizes) - _NAMED_AT_MOST
    return f"session key{'s' if len(sizes) > 1 else ''} {named}{f' and {more} more' if more > 0 else ''}"


def _bytes_of(fields: Mapping[str, bytes]) -> int:
    return len("".join(fields).encode()) + sum(map(len, fields.values()))
