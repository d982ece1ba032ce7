"""Sessions for Django: `request.session` on the server, and the functions of `server_session` in its views.

```python
SESSION_ENGINE = "server_session.django"
SERVER_SESSION = {"session_store": "redis://127.0.0.1:6379/0", "origin": "https://shop.example"}
MIDDLEWARE = [..., "server_session.django.SessionMiddleware", ...]  # where Django's own SessionMiddleware stands
```

`SERVER_SESSION` has the keywords of `configure`, which a Django project does not call. The idle time-out is
`SESSION_COOKIE_AGE`, not `max_age`, and there is no `absolute_max_age` unless it is set. Each `SESSION_COOKIE_*`
that is set wins over the `cookie_handler`; Secure follows the origin unless `SESSION_COOKIE_SECURE` is True. With an
https origin and no name given the cookie is `__Host-session`, and `settings.SESSION_COOKIE_NAME` says so from then on.
"""

import logging
import threading
import weakref
from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection, Coroutine, Generator, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Any, Final, Literal, TypeVar

from django.conf import settings
from django.contrib.sessions.backends.base import CreateError, SessionBase, UpdateError
from django.contrib.sessions.middleware import SessionMiddleware as DjangoSessionMiddleware
from django.core.signals import setting_changed
from django.http import FileResponse, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase, StreamingHttpResponse
from django.utils import timezone

from server_session._carrier import Request, current, resolve, serving, state_of
from server_session._codec import decode_value
from server_session._colour import home, run_awaiting, run_blocking
from server_session._cookies import CookieHandler, CookieTransport
from server_session._lifecycle import Answer, Policy, State, Visit
from server_session._record import CREATED
from server_session._response import headers_of
from server_session._session import Session
from server_session._sessions import Sessions, Settings, configure, configured
from server_session._tokens import Credential
from server_session.exceptions import ConfigurationError, NotConfiguredError, StoreError
from server_session.stores import _base as contract
from server_session.stores._base import Expect, Fields, Lifetime, Outcome

__all__ = ["CreateError", "SessionMiddleware", "SessionStore", "UpdateError"]

T = TypeVar("T")

_LOG: Final = logging.getLogger("server_session")

_EXPIRY: Final = "_session_expiry"
"""The key under which Django's `set_expiry` keeps what it was told."""

_SERVER_ERROR: Final = 500
# An age that is over is written as this, for a record lives or is not written.
_SHORTEST: Final = 1e-6

_COOKIE_NAME: Final = "SESSION_COOKIE_NAME"
_DJANGOS_NAME: Final = "sessionid"
_COOKIE_SETTINGS: Final = {
    _COOKIE_NAME: "name",
    "SESSION_COOKIE_DOMAIN": "domain",
    "SESSION_COOKIE_PATH": "path",
    "SESSION_COOKIE_HTTPONLY": "http_only",
    "SESSION_COOKIE_SAMESITE": "same_site",
}


class SessionStore(SessionBase):
    """Django's session engine: `request.session`, or a session by its key, in a command or a test.

    It has all that Django's engines have, with the `a` twins. Only changed keys are stored, and changes inside values
    are seen without `modified = True`. Once every field is gone by `clear()` the session is destroyed; to start anew
    in place delete its keys.

    Args:
        session_key: the cookie's value, 64 characters of base64url; anything else is no session, and a write founds
            one under a key of its own.

    """

    def __init__(self, session_key: str | None = None) -> None:
        self._sessions: Sessions = _project.sessions()
        self._request: Request | None = None
        self.failure: StoreError | None = None
        super().__init__(session_key)

    def bind(self, request: Request) -> None:
        """Be the session of this request, that of the functions too."""
        self._request = request
        self._visit = self._sessions.visit(request)
        self._visit.answer = Answer.OPEN

    # --- what Django keeps in attributes

    @property
    def session_key(self) -> str | None:
        """The cookie's value, or `None` where there is no session."""
        credential = self._visit.credential
        return None if credential is None else credential.value

    @property
    def _session_key(self) -> str | None:
        return self.session_key

    @_session_key.setter
    def _session_key(self, value: str | None) -> None:
        self._visit = self._visit_of(value)

    def _get_session(self, no_load: bool = False) -> Session:  # noqa: ARG002 - nothing here is saved unseen
        self.accessed = True
        session = self._visit.session
        return self._run(self._visit.load) if session is None else session

    async def _aget_session(self, no_load: bool = False) -> Session:  # noqa: ARG002 - likewise
        self.accessed = True
        session = self._visit.session
        return await self._await(self._visit.load()) if session is None else session

    _session = property(_get_session)

    def is_empty(self) -> bool:
        """Tell whether there is neither a key nor any data."""
        return not self.session_key and not self._visit.session

    def clear(self) -> None:
        """Drop every field, seen or not. Left empty the session is destroyed, written to again it is founded anew."""
        visit = self._visit
        if visit.session is None:
            # Not worth a call to the store: nothing of it stays.
            visit.session = Session()
            visit.session.bind(visit.commit, visit.is_alive)
        visit.session.clear()
        self.accessed = True
        self.modified = True

    # --- what an engine must do, in both colours

    def load(self) -> dict[str, Any]:
        """Return the session's data; `{}` if there is none."""
        # What the store has, without what this request has not stored yet.
        return self._run(self._visit_of(self.session_key).get)

    async def aload(self) -> dict[str, Any]:
        """Do what `load` does."""
        return await self._await(self._visit_of(self.session_key).get())

    def exists(self, session_key: str | None) -> bool:
        """Tell whether the session of this key lives."""
        return self._run(self._visit_of(session_key).is_alive)

    async def aexists(self, session_key: str | None) -> bool:
        """Do what `exists` does."""
        return await self._await(self._visit_of(session_key).is_alive())

    def create(self) -> None:
        """Found a session, with the data at hand."""
        self._run(self._create)

    async def acreate(self) -> None:
        """Do what `create` does."""
        await self._await(self._create())

    def save(self, must_create: bool = False) -> None:
        """Store what has changed; found the session if there is none.

        Raises `UpdateError` if it ended meanwhile, `CreateError` if it must be created and is there.
        """
        self._run(partial(self._save, must_create=must_create))

    async def asave(self, must_create: bool = False) -> None:
        """Do what `save` does."""
        await self._await(self._save(must_create=must_create))

    def delete(self, session_key: str | None = None) -> None:
        """End the session of this key, by default this one."""
        self._run(partial(self._delete, session_key))

    async def adelete(self, session_key: str | None = None) -> None:
        """Do what `delete` does."""
        await self._await(self._delete(session_key))

    def flush(self) -> None:
        """End the session, and forget its data and its key."""
        self._run(self._flush)

    async def aflush(self) -> None:
        """Do what `flush` does."""
        await self._await(self._flush())

    def cycle_key(self) -> None:
        """Give the session a new key, and keep its data."""
        self._run(self._cycle_key)

    async def acycle_key(self) -> None:
        """Do what `cycle_key` does."""
        await self._await(self._cycle_key())

    @classmethod
    def clear_expired(cls) -> None:
        """Delete expired sessions, where the store does not do so by itself."""
        run_blocking(_project.sessions().store.colour, _home(None), _delete_expired)

    @classmethod
    async def aclear_expired(cls) -> None:
        """Do what `clear_expired` does."""
        await run_awaiting(_project.sessions().store.colour, _delete_expired())

    # --- their bodies

    async def _create(self) -> None:
        session = self._visit.session
        await self._visit.replace({} if session is None else session.copy())
        self.modified = True

    async def _save(self, *, must_create: bool) -> None:
        visit = self._visit
        if must_create and await visit.is_alive():
            raise CreateError
        was_loaded = visit.session is not None
        session = await visit.load()
        changes = session.changes()
        if not await visit.commit():
            raise UpdateError
        if changes is None and was_loaded and not await visit.is_alive() and visit.state is State.OVER:
            raise UpdateError
        is_ended = changes is not None and changes.cleared and not changes.changed
        if visit.state in (State.NONE, State.REFUSED) and not is_ended:
            await visit.replace({})

    async def _delete(self, session_key: str | None) -> None:
        await (self._visit if session_key is None else self._visit_of(session_key)).destroy()

    async def _flush(self) -> None:
        await self._visit.destroy()
        self.accessed = True
        self.modified = True

    async def _cycle_key(self) -> None:
        await self._visit.load()
        # With data, if only none: it founds a session where there is none.
        await self._visit.renew({})
        self.accessed = True
        self.modified = True

    async def _conclude(self, *, keep: bool) -> None:
        visit = self._visit
        # What changed inside a value is seen without `modified = True`.
        changed = visit.session is not None and visit.session.modified
        if keep and (changed or self.modified or settings.SESSION_SAVE_EVERY_REQUEST):
            await self._keep()
        visit.accessed |= self.accessed
        if visit.cookie is not None and visit.cookie.value is not None:
            expiry = dict.get(await visit.load(), _EXPIRY)
            at_close = settings.SESSION_EXPIRE_AT_BROWSER_CLOSE if expiry is None else expiry == 0
            visit.cookie_seconds = 0 if at_close else self.get_expiry_age(expiry=expiry)

    async def _keep(self) -> None:
        visit = self._visit
        if visit.session is None:
            await visit.load()
        if self.is_empty():
            return
        try:
            await self._save(must_create=False)
        except UpdateError:
            # It ended meanwhile: the write is dropped, a signal was given, and the browser keeps what it has.
            return
        # The browser's clock starts anew, as Django has it; only for a cookie that the store has just said holds.
        visit.send_cookie_again(visit.cookie_seconds)

    # ---

    def conclude(self, *, keep: bool) -> None:
        """Store what the request changed (if it is to be kept), and choose how long the browser keeps the cookie."""
        self._run(partial(self._conclude, keep=keep))

    async def aconclude(self, *, keep: bool) -> None:
        """Do what `conclude` does."""
        await self._await(self._conclude(keep=keep))

    def answer(self, response: HttpResponseBase) -> None:
        """Put the cookie, and what caches must know, into the response to the request."""
        if self._request is not None:
            self._sessions.answer(self._request, self._visit, headers_of(response))
        # Who still has the response in hand (a middleware further out) can give it to the functions.
        self._visit.answer = Answer.STARTED if response.streaming else Answer.ABSENT

    def stream(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Return a body in which the functions know their request, and whose changes are stored at its end."""
        while True:
            with self.serving():
                chunk = next(chunks, None)
            if chunk is None:
                break
            yield chunk
        self._run(self._visit.commit)

    async def astream(self, chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        """Do what `stream` does."""
        ahead = aiter(chunks)
        while True:
            with self.serving():
                chunk = await anext(ahead, None)
            if chunk is None:
                break
            yield chunk
        await self._await(self._visit.commit())

    @contextmanager
    def serving(self) -> Generator[None]:
        """Let the functions know the request."""
        token = current.set(self._request)
        try:
            yield
        finally:
            current.reset(token)

    def _visit_of(self, session_key: str | None) -> Visit:
        credential = Credential.parse(session_key) if isinstance(session_key, str) else None
        return Visit(self._sessions.policy, [] if credential is None else [credential], Answer.OPEN)

    def _run(self, start: Callable[[], Coroutine[Any, Any, T]]) -> T:
        try:
            return run_blocking(self._sessions.store.colour, _home(self._request), start)
        except StoreError as error:
            self.failure = error
            raise

    async def _await(self, coroutine: Coroutine[Any, Any, T]) -> T:
        try:
            return await run_awaiting(self._sessions.store.colour, coroutine)
        except StoreError as error:
            self.failure = error
            raise


class SessionMiddleware(DjangoSessionMiddleware):
    """Serves `request.session` and the functions; it stands where Django's SessionMiddleware stands.

    As Django does it saves what was modified, and every session with `SESSION_SAVE_EVERY_REQUEST`, unless the status
    is 500 or above. Other than Django it deletes no cookie because the session was not found, and answers as usual
    when the session has ended meanwhile: the late write is dropped. A store that does not answer is a response 503.

    Raises:
        ConfigurationError: a setting that cannot work.

    """

    def __init__(self, get_response: Any) -> None:
        super().__init__(get_response)
        if not issubclass(self.SessionStore, SessionStore):
            raise ConfigurationError(
                f"SESSION_ENGINE is {settings.SESSION_ENGINE!r}: server_session's middleware serves "
                "'server_session.django', or a module whose SessionStore is a subclass of its"
            )
        # What cannot work is said when the server starts.
        _project.sessions()

    def __call__(self, request: HttpRequest) -> Any:
        """Serve one request."""
        if self.async_mode:
            return self.__acall__(request)
        self.process_request(request)
        with _session_of(request).serving():
            response: Any = self.get_response(request)
            return self.process_response(request, response)

    async def __acall__(self, request: HttpRequest) -> HttpResponseBase:
        """Serve one request, on the event loop."""
        self.process_request(request)
        with _session_of(request).serving():
            answered: Any = self.get_response(request)
            response: HttpResponseBase = await answered
            session = getattr(request, "session", None)
            if not isinstance(session, SessionStore):
                return response
            try:
                await session.aconclude(keep=_is_to_be_kept(response))
            except StoreError as error:
                response = _unavailable(error)
            return _answered(session, response)

    def process_request(self, request: HttpRequest) -> None:
        """Give the request its session, without a call to the store."""
        carried = resolve((request,)).request
        state = state_of(carried)
        state.home = state.home or home()
        session: Any = self.SessionStore()
        session.bind(carried)
        request.session = session

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> Any:
        """Store the session, and put its cookie into the response."""
        session = getattr(request, "session", None)
        if not isinstance(session, SessionStore):
            return response
        try:
            session.conclude(keep=_is_to_be_kept(response))
        except StoreError as error:
            response = _unavailable(error)
        return _answered(session, response)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponseBase | None:  # noqa: ARG002
        """Answer for a view whose store failed."""
        return _unavailable(exception) if isinstance(exception, StoreError) else None


def _session_of(request: HttpRequest) -> SessionStore:
    session = request.session
    assert isinstance(session, SessionStore)  # noqa: S101 - process_request has set it
    return session


def _is_to_be_kept(response: HttpResponseBase) -> bool:
    return response.status_code < _SERVER_ERROR


def _answered(session: SessionStore, response: HttpResponseBase) -> HttpResponseBase:
    if session.failure is not None and response.status_code == _SERVER_ERROR:
        # Raised where Django asks nobody what to answer: in a middleware further in.
        response = _unavailable(session.failure)
    session.answer(response)
    if isinstance(response, StreamingHttpResponse) and not isinstance(response, FileResponse):
        chunks: Any = response.streaming_content
        response.streaming_content = session.astream(chunks) if response.is_async else session.stream(chunks)
    return response


def _unavailable(error: Exception) -> HttpResponse:
    _LOG.error("a request was answered with 503, for the session store failed: %s", error)
    return HttpResponse(
        "Sessions are unavailable now. Try again later.\n",
        status=503,
        content_type="text/plain; charset=utf-8",
        headers={"Cache-Control": "no-store"},
    )


def _home(request: Request | None) -> Any:
    carried = serving() if request is None else request
    return None if carried is None else state_of(carried).home


async def _delete_expired() -> None:
    delete: Callable[[], Coroutine[Any, Any, int]] | None = getattr(_project.sessions().store, "delete_expired", None)
    if delete is not None:
        while await delete():
            pass


class _ExpiringStore(contract.SessionStore):
    """Gives a record the lifetime that `set_expiry` asked for, in the very write that brings the wish."""

    def __init__(self, store: contract.SessionStore, policy: Policy) -> None:
        self._store = store
        self._policy = policy
        self.colour = store.colour
        self.max_age = store.max_age
        self.evicts = getattr(store, "evicts", False)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def id(self) -> str:
        return self._store.id()

    async def get(
        self, key: str, expect: Expect, touch: bool = True
    ) -> Fields | Literal[Outcome.MISSING, Outcome.CONFLICT]:
        return await self._store.get(key, expect, touch)

    async def set(self, key: str, fields: Fields, lifetime: Lifetime, expect: Expect | None = None) -> Outcome:
        wish = fields.get(_EXPIRY)
        wished = lifetime if wish is None else self._lifetime(wish, lifetime.remaining)
        return await self._store.set(key, fields, wished, expect)

    async def merge(
        self,
        key: str,
        changed: Mapping[str, bytes],
        removed: Collection[str],
        expect: Expect,
        lifetime: Lifetime | None = None,
    ) -> Outcome:
        if lifetime is None and (_EXPIRY in changed or _EXPIRY in removed):
            lifetime = self._lifetime(changed.get(_EXPIRY), await self._remaining(key))
        return await self._store.merge(key, changed, removed, expect, lifetime)

    async def destroy(self, key: str) -> bool:
        return await self._store.destroy(key)

    async def _remaining(self, key: str) -> float | None:
        """Return what is left to the deadline, which no new lifetime may move."""
        if self._policy.absolute is None:
            return None
        fields = await self._store.get(key, {}, False)
        created = None if isinstance(fields, Outcome) else fields.get(CREATED)
        # No record, or the mark of an ended one: the write will not apply.
        age = 0.0 if created is None else self._policy.now() - float(created)
        return max(self._policy.absolute - age, _SHORTEST)

    def _lifetime(self, wish: bytes | None, remaining: float | None) -> Lifetime:
        expiry = None if wish is None else decode_value(_EXPIRY, wish)
        if not expiry:
            return Lifetime(self._policy.idle, remaining)
        if isinstance(expiry, int | float):
            return Lifetime(max(float(expiry), _SHORTEST), remaining)
        moment = expiry if isinstance(expiry, datetime) else datetime.fromisoformat(expiry)
        seconds = max((moment - timezone.now()).total_seconds(), _SHORTEST)
        return Lifetime(seconds, seconds if remaining is None else min(seconds, remaining))


class _Project:
    """What the project's settings make: the configured default, and again where a test changes them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions: Sessions | None = None
        self._made: weakref.WeakSet[Sessions] = weakref.WeakSet()
        self._opened: tuple[object, contract.SessionStore] | None = None
        setting_changed.connect(self._forget)

    def sessions(self) -> Sessions:
        """Return the sessions of the project's settings.

        Raises `ConfigurationError` for a setting that cannot work, and where `configure` was called beside them.
        """
        if self._sessions is None or self._sessions is not _default():
            with self._lock:
                default = _default()
                if self._sessions is None or self._sessions is not default:
                    if default is not None and default not in self._made:
                        raise ConfigurationError(
                            "configure() was called in a Django project: give its keywords in the setting "
                            "SERVER_SESSION, so that request.session and the functions are one"
                        )
                    self._sessions = self._make()
        return self._sessions

    def _forget(self, *, setting: str, **_: object) -> None:
        if setting == "SERVER_SESSION" or setting.startswith("SESSION_"):
            self._sessions = None

    def _make(self) -> Sessions:
        given = _given()
        age = settings.SESSION_COOKIE_AGE
        if isinstance(age, bool) or not isinstance(age, int | float) or not age > 0:
            raise ConfigurationError(f"SESSION_COOKIE_AGE is a positive number of seconds, not {age!r}")
        asked = given.pop("session_store", None)
        cookie = given.pop("cookie_handler", None)
        # A test that changes another setting keeps its sessions.
        store = self._opened[1] if self._opened is not None and self._opened[0] == asked else asked
        plain = Sessions(session_store=store, cookie_handler=cookie, max_age=age, **given)
        self._opened = (asked, plain.store)
        is_https = bool(plain.origins) and plain.origins[0].startswith("https:")
        sessions = configure(
            session_store=_ExpiringStore(plain.store, plain.policy),
            cookie_handler=_cookie(cookie, is_https=is_https),
            max_age=age,
            **given,
        )
        self._made.add(sessions)
        _tell_name(sessions)
        return sessions


class _ChosenName(str):
    """A cookie's name that this module has put into the settings, as opposed to one that the project has."""

    __slots__ = ()


def _tell_name(sessions: Sessions) -> None:
    # Whatever else reads the cookie's name, Django's test client for one, looks for it in the setting.
    cookie = sessions.cookie
    if isinstance(cookie, CookieHandler) and cookie.name != settings.SESSION_COOKIE_NAME:
        settings.SESSION_COOKIE_NAME = _ChosenName(cookie.name)


def _is_explicit(name: str) -> bool:
    return bool(settings.is_overridden(name)) and not isinstance(getattr(settings, name), _ChosenName)


def _default() -> Sessions | None:
    try:
        return configured()
    except NotConfiguredError:
        return None


def _given() -> dict[str, Any]:
    given = getattr(settings, "SERVER_SESSION", {})
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"SERVER_SESSION is a dict of configure's keywords, not {type(given).__name__!r}")
    if "max_age" in given:
        raise ConfigurationError(
            "SERVER_SESSION has max_age, but in Django the idle time-out is SESSION_COOKIE_AGE: set that, in seconds"
        )
    if unknown := given.keys() - Settings.__annotations__.keys():
        raise ConfigurationError(
            f"SERVER_SESSION has {', '.join(sorted(map(str, unknown)))}: it takes configure's keywords "
            f"{', '.join(sorted(Settings.__annotations__.keys() - {'max_age'}))}"
        )
    return {"absolute_max_age": None, **given}


def _cookie(given: Any, *, is_https: bool) -> CookieTransport:
    explicit = [name for name in _COOKIE_SETTINGS if _is_explicit(name)]
    if given is not None and not isinstance(given, CookieHandler):
        if explicit:
            raise ConfigurationError(
                f"{', '.join(explicit)} cannot be applied to a cookie_handler of the type "
                f"{type(given).__name__!r}; leave either out"
            )
        transport: CookieTransport = given
        return transport
    handler = CookieHandler() if given is None else given
    if handler.max_age is not None:
        raise ConfigurationError(
            "the cookie_handler has max_age, but in Django the cookie's age is SESSION_COOKIE_AGE, or with "
            "SESSION_EXPIRE_AT_BROWSER_CLOSE until the browser closes"
        )
    attributes: dict[str, Any] = {_COOKIE_SETTINGS[name]: getattr(settings, name) for name in explicit}
    attributes["max_age"] = None if settings.SESSION_EXPIRE_AT_BROWSER_CLOSE else settings.SESSION_COOKIE_AGE
    if settings.SESSION_COOKIE_SECURE is True:
        attributes["secure"] = True
    if not (is_https or handler.is_named):
        attributes.setdefault("name", _DJANGOS_NAME)
    try:
        return handler.replace(**attributes)
    except ConfigurationError as error:
        raise ConfigurationError(f"{', '.join(explicit) or 'SESSION_COOKIE_*'}: {error}") from None


_project: Final = _Project()
