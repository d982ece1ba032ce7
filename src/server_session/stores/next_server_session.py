"""Sessions in Redis as the npm package next-server-session 1.2.5 keeps them, shared with a front end that uses it."""

import base64
import hashlib
import json
import math
import re
import uuid
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

import msgspec

from server_session._base64url import base64url
from server_session._cookies import CookieHandler, Header, RequestFacts, cookie_values
from server_session._settings import seconds_of
from server_session.exceptions import ConfigurationError, RecordError, SerializationError
from server_session.stores._base import Fields, Outcome
from server_session.stores._packed import TENTH, Change, Likely, PackedStore, Record, T
from server_session.stores._waits import begin_call
from server_session.stores.redis import Client, RedisSessionStore

__all__ = ["NextServerSessionCookie", "NextServerSessionRedisStore"]

# Of the core's own fields, named in `_record`, those that follow from the rest: the layout has no place for any.
_OWN: Final = "\0"
_DIGEST, _CREATED, _STAMP, _ENDED = (_OWN + name for name in ("digest", "created", "stamp", "ended"))
# To the package a session that is null is none; here it is the mark of one that ended.
_MARK: Final = b"null"

_LOOK: Final = b"return {redis.call('GET', KEYS[1]) or '', redis.call('PTTL', KEYS[1])}"
# Writes if the text is still the same; else it answers with the one that there is.
_SWAP: Final = b"""local found = redis.call('GET', KEYS[1]) or ''
if found ~= ARGV[1] then return found end
if ARGV[2] == '' then redis.call('DEL', KEYS[1])
elseif ARGV[2] ~= found then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
elseif redis.call('PTTL', KEYS[1]) < tonumber(ARGV[3]) then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return 1"""

_read: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_is_id = re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch
_PADDING: Final = b"\0\0"


def _credential_of(number: uuid.UUID) -> str:
    """Return the credential that an id is: the verifier follows from it, for it is the whole secret."""
    selector = base64url(number.bytes + _PADDING)
    return (selector + base64url(hashlib.sha256(b"next-server-session" + selector).digest()[:30])).decode("ascii")


def _id_of(key: str) -> uuid.UUID:
    raw = base64.urlsafe_b64decode(key[:24])
    if not raw.endswith(_PADDING):
        raise _no_place("owners (log_in, sessions_of)")
    return uuid.UUID(bytes=raw[: -len(_PADDING)])


def _digest(text: bytes) -> bytes:
    return b'"' + base64url(hashlib.sha256(text).digest()) + b'"'


def _no_place(what: str) -> ConfigurationError:
    mend = "replace_session_data is what logs in, and see the docstring of NextServerSessionRedisStore"
    return ConfigurationError(f"next-server-session's layout has no place for {what}: {mend}")


class NextServerSessionCookie(CookieHandler):
    """The package's cookie: the bare id as `nextSession`, by default `SameSite=Strict`.

    The attributes are those of `CookieHandler`; give `createCookieHandler` the same.
    """

    def __init__(self, name: str = "nextSession", *, same_site: str = "strict", **attributes: Any) -> None:
        super().__init__(name, same_site=same_site, **attributes)

    def read(self, request: RequestFacts) -> list[str]:
        """Return the credentials of up to four ids, in the order in which they came."""
        ids = filter(_is_id, dict.fromkeys(cookie_values(request.cookie_headers, self.name.encode("ascii"))))
        return [_credential_of(uuid.UUID(value.decode())) for value in ids][:4]

    def write(self, request: RequestFacts, value: str, lifetime: float | None) -> list[Header]:
        """Return the `Set-Cookie` header that bears the id."""
        known = str(_id_of(value)).encode()
        return [(name, text.replace(value.encode(), known)) for name, text in super().write(request, value, lifetime)]


class NextServerSessionRedisStore(PackedStore):
    """Shares its sessions with a Next.js front end on next-server-session 1.2.5 and its `createRedisSessionStore`.

    A session is one JSON text under `sess_` and a UUID, its id. Each side reads, writes, founds and ends the sessions
    of the other. The cookie is `NextServerSessionCookie()` where `configure` names none.

    **What the package does not hold, cannot hold here**:

    - Its `setSessionData` reads the session and writes it back: what either side writes meanwhile is lost, and a
      session that ended meanwhile is back under its old id. Writes from here undo nobody's.
    - The id is the whole credential and stands in Redis: who reads that has every session. Over there it does not
      change at log-in, so who planted it shares what follows (session fixation). From here `replace_session_data`
      changes it; a write to a key of the mapping does not.
    - Its `getSessionData` expires the cookie of an id that it does not find: where it meets a log-in, the new one.
    - Its CSRF token, the key `csrfToken`, passes again and again, and `undefined` for who was given none. Neither side
      knows the other's: `await pluck_session_property(request, "csrfToken") == token` takes one of those, once.
    - Values that JavaScript lacks or rounds are refused with `SerializationError`; whole floats come back as ints.
      What the other side alone can have makes the session a `RecordError` here: text with half a surrogate pair (an
      emoji that was cut), an object whose one key begins with `$` (a tag here), nesting beyond 64 levels.
    - No owner, no time of founding or log-in: `log_in`, `sessions_of`, `renew_session`, `renew_on`, deadlines,
      single-use tokens and encryption raise `ConfigurationError`; `require_fresh` is never content.

    A read is one round trip, where a tenth of the idle time has passed two; a write is two. The user of an access
    control list needs `+eval +get +set +del +pttl +pexpire`.

    Args:
        client: A client of redis-py or a URL, as `RedisSessionStore` takes it.
        max_age: Idle seconds, or a timedelta, the same as the package's `maxSessionAgeMS`.
        timeout: Seconds for the server to answer.

    """

    least_touch = TENTH

    def __init__(self, client: Client | str, *, max_age: float | timedelta = 30 * 60, timeout: float = 2.0) -> None:
        redis = RedisSessionStore(client, timeout=timeout)
        self.colour = redis.colour
        self.max_age = self._idle = seconds_of("max_age", max_age)
        self._send, self._timeout = redis._send, redis._timeout  # noqa: SLF001 - of the same room

    @classmethod
    def from_url(cls, url: str) -> "NextServerSessionRedisStore":
        """Make one of `next-server-session+redis://…`; `+rediss` and `+unix` too."""
        return cls(url.partition("+")[2])

    def fit(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings with what this layout asks for; raises `ConfigurationError` for what it cannot hold."""
        asked = {"cookie_handler": None, "absolute_max_age": None, "renew_on": (), "max_age": None, **settings}
        asked["cookie_handler"] = asked["cookie_handler"] or NextServerSessionCookie()
        if not isinstance(asked["cookie_handler"], NextServerSessionCookie):
            raise _no_place("a cookie that is no NextServerSessionCookie(…)")
        if asked["max_age"] is not None and seconds_of("max_age", asked["max_age"]) != self._idle:
            raise _no_place("a max_age other than the store's: NextServerSessionRedisStore(…, max_age=…)")
        for name in ("absolute_max_age", "renew_on", "codec"):
            if asked.get(name):
                raise _no_place(name)
        return asked

    def id(self) -> str:
        """Return a fresh credential: a UUID of 122 random bits, and what follows from it."""
        return _credential_of(uuid.uuid4())

    async def swap(self, key: str, change: Change[T], likely: Likely) -> T:
        """Read the record, write what `change` makes of it if nobody wrote meanwhile, else read it again."""
        begin_call(self._timeout)
        number = _id_of(key)
        name = b"sess_" + str(number).encode()
        text, left = b"", -1
        if likely is not Likely.FOUNDS:
            text, left = await self._send(name, b"EVAL", _LOOK, b"1", name)
        while True:
            before = _record_of(number, text, self._idle, left / 1000 if left >= 0 else math.inf) if text else None
            after = change(before, 0.0)
            if after is before or isinstance(after, Outcome):
                return after
            known, new, age = before.fields if before else {}, b"", b""
            if isinstance(after, Record):
                new = text if after.fields is known else self._text_of(after, known)
                age = b"%d" % math.ceil(1000 * after.idle)
            text = await self._send(name, b"EVAL", _SWAP, b"1", name, text, new, age)
            if text == 1:
                return after

    def _text_of(self, record: Record, before: Fields) -> bytes:
        fields = record.fields
        if _ENDED in fields:
            return _MARK
        own = {name for name in fields if name.startswith(_OWN)}
        if own - {_DIGEST, _CREATED, _STAMP} or before.get(_DIGEST, fields[_DIGEST]) != fields[_DIGEST]:
            raise _no_place("what renew_session, log_in and tokens for a single use keep")
        if record.idle != self._idle or record.deadline != math.inf:
            raise _no_place("a lifetime of one session's own")
        for name in fields.keys() - own:
            if fields[name] != before.get(name):
                _refuse_foreign(name, fields[name])
        return msgspec.json.encode({name: msgspec.Raw(value) for name, value in fields.items() if name not in own})


def _record_of(number: uuid.UUID, text: bytes, idle: float, expires: float) -> Record:
    if text == _MARK:
        return Record(idle, expires, expires, {_ENDED: b"0.000"})
    try:
        fields = {name: bytes(value) for name, value in _read(text).items()}
    except (ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise RecordError("the key holds no JSON object: another program wrote it") from error
    if any(name.startswith(_OWN) for name in fields):
        raise RecordError("the session has a key that begins with NUL, which is reserved")
    # What rests on all fields rests on the stamp.
    own = {_DIGEST: _digest(_credential_of(number).encode()), _CREATED: b"0.000", _STAMP: _digest(text)}
    return Record(idle, math.inf, expires, {**fields, **own})


def _refuse_foreign(name: str, value: bytes) -> None:
    numbers: list[int] = []
    json.loads(value, parse_int=lambda digits: numbers.append(abs(int(digits))))
    if b'{"$' in value or max(numbers, default=0) >= 2**53:
        raise SerializationError(name, "", "JavaScript would take it for something else; store text instead")
