"""The session of one request, as the store has it: what the functions do with it.

The uppermost of five layers. Beneath it are what is known (`presence`), how a session is founded, written to and ended
(`writing`), the mapping (`mapped`) and the tokens of forms (`form_tokens`).
"""

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from server_session._codec import decode_fields, decode_value, encode_fields, is_key
from server_session._record import (
    AS_CONFIGURED,
    AUTHENTICATED,
    STAMP,
    Life,
    is_same,
    time_of,
    user_fields,
)
from server_session.exceptions import NotFreshError
from server_session.kernel.form_tokens import FormTokens
from server_session.kernel.observed import ReadTracking
from server_session.kernel.writing import Draft
from server_session.stores._base import Fields

__all__ = ["StoredSession"]


class StoredSession(FormTokens):
    """One request's dealings with its session. What writes returns False if the session ended meanwhile.

    Args:
        policy: the settings that its life depends on.
        presented: the credentials that the request brought.
        response: whether a cookie can reach the browser.
        request: what is told of the device at a log-in.
        is_withheld: tells whether the browser may have a session's cookie that it did not send with this request.

    """

    # --- reads

    async def get(self, *, touch: bool = True) -> dict[str, Any]:
        """Return the session's data as this request sees it; without `touch` the idle clock goes on."""
        self.accessed = True
        return decode_fields(self._seen_by_request(await self._look(touch=touch)))

    async def require_fresh(self, seconds: float) -> None:
        """Raise `NotFreshError` unless the user proved who they are within so many seconds."""
        self.accessed = True
        fields = await self._look()
        if fields is None or AUTHENTICATED not in fields:
            raise NotFreshError(
                f"nobody has logged in with this session{'' if fields else ', for there is none'}: let the user log "
                "in, and call log_in (or, where the user has given the password again, "
                "renew_session with authenticated=True)"
            )
        age = self._policy.now() - time_of(fields, AUTHENTICATED)
        if age > seconds:
            raise NotFreshError(
                f"the user logged in {age:.0f} seconds ago, and what is asked for allows {seconds:g}: ask for the "
                "password again, and then call renew_session with authenticated=True, or log_in"
            )

    # --- writes

    async def merge(self, data: Mapping[str, object]) -> bool:
        """Write some fields."""
        self.accessed = True
        changed = encode_fields(data)
        return await self._merge(changed) and self._accept(changed)

    async def replace(self, data: Mapping[str, object], owner: str | None = None, *, in_place: bool = False) -> bool:
        """Write all fields anew; except in place, in a session founded anew."""
        self.accessed = True
        changed = encode_fields(data)
        if not in_place:
            return await self._found_anew(changed, owner)

        def decide(fields: Fields | None) -> Draft:
            known = fields or {}
            # The stamp: no field may have come meanwhile that would outlive the replacement.
            return Draft(changed, user_fields(known).keys() - changed.keys(), {STAMP: known.get(STAMP)})

        if not await self._write_if_still_so("replace_session_data(in_place=True)", decide):
            return False
        if self.session is not None:
            self.session.restart(changed)
        return True

    async def update(self, change: Callable[[dict[str, Any]], object]) -> bool:
        """Change the data by a function of the data, if what the function read is still so; else again."""
        self.accessed = True
        changed: dict[str, bytes] = {}
        removed: set[str] = set()

        def decide(fields: Fields | None) -> Draft | None:
            nonlocal changed, removed
            seen = self._seen_by_request(fields)
            data = ReadTracking(decode_fields(seen))
            if (returned := change(data)) is not None:
                if isinstance(returned, Coroutine):
                    returned.close()
                raise TypeError(
                    "the change given to update_session_data must be a plain def (not async) that alters the dict that "
                    "it is given and returns None; what it returns would be lost"
                )
            after = encode_fields(data.plain())
            changed = {name: value for name, value in after.items() if not is_same(name, seen.get(name), value)}
            removed = seen.keys() - after.keys()
            # What is removed where there is no session was never stored.
            if not changed and (fields is None or not removed):
                return None
            stored = fields or {}
            expect: dict[str, bytes | None] = {name: stored.get(name) for name in data.read if is_key(name)}
            if data.read_names:
                expect[STAMP] = stored.get(STAMP)
            # A container in a container's place may be the same one, changed inside.
            assigned = [name for name, value in changed.items() if not _are_containers(value, seen.get(name))]
            return Draft(changed, removed, expect, assigned)

        return await self._write_if_still_so("update_session_data", decide) and self._accept(changed, removed)

    async def pluck(self, name: str) -> Any:
        """Remove one field and return its value, or `None`; of several callers exactly one gets it."""
        self.accessed = True
        value: bytes | None = None

        def decide(fields: Fields | None) -> Draft | None:
            nonlocal value
            value = self._seen_by_request(fields).get(name)
            if value is None or fields is None or name not in fields:
                return None
            return Draft({}, {name}, {name: fields[name]})

        if not await self._write_if_still_so("pluck_session_property", decide) or value is None:
            return None
        self._accept({}, {name})
        return decode_value(name, value)

    async def renew(
        self, data: Mapping[str, object] | None = None, life: Life = AS_CONFIGURED, *, authenticated: bool = False
    ) -> bool:
        """Give the session a new cookie, and write some fields in the same step.

        `life` is what is asked of its life from now on; `authenticated` says that the user has just proved who they
        are.
        """
        self.accessed = True
        changed = None if data is None else encode_fields(data)
        own = {AUTHENTICATED: self._now()} if authenticated else {}
        return await self._renew(changed, (), own, life) and self._accept(changed or {})


def _are_containers(*values: bytes | None) -> bool:
    return all(value is not None and value[:1] in (b"[", b"{") for value in values)
