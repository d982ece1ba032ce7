"""`Sessions`: the settings, the store and the cookie, configured whole; and the default that `configure` makes."""

import copy
import time
from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from functools import cached_property
from typing import Any, Final, Generic, TypedDict, TypeVar, Unpack

from server_session._colour import Colour
from server_session._cookies import CookieHandler, CookieTransport
from server_session._functions import BlockingFunctions, Functions
from server_session._origins import origins_of
from server_session._policy import MAX_BYTES, MAX_FIELDS, Policy
from server_session._readers import Reader
from server_session._settings import count_of, require, seconds_if_given, unknown_option
from server_session._signals import Signal, Signals, Telemetry
from server_session._urls import open_store
from server_session.csrf.policy import CSRF
from server_session.exceptions import ConfigurationError, NotConfiguredError
from server_session.exchange.colours import Served
from server_session.http.carrier import Carrier, serving
from server_session.stores._base import SessionStore
from server_session.stores._circuit import CircuitStore
from server_session.stores._sealed import EncryptedCodec, SealedStore
from server_session.stores.memory import MemorySessionStore

__all__ = ["BLOCKING_DEFAULT", "DEFAULT", "RENEW_ON", "Sessions", "Settings", "chosen", "configure", "configured"]

A = TypeVar("A")

IDLE_SECONDS: Final = 30 * 60.0
ABSOLUTE_AGE: Final = timedelta(days=30)
RENEW_ON: Final = (
    *("user", "user_id"),
    # Flask-Login's, Django's, Pyramid's, Flask-Principal's, aiohttp-security's.
    *("_user_id", "_auth_user_id", "auth.userid", "identity.id", "AIOHTTP_SECURITY"),
)
"""Keys whose writing means log-in."""


class Settings(TypedDict, total=False):
    """The keywords of `Sessions`, of `configure` and of the middlewares; what each means is said at `Sessions`."""

    session_store: SessionStore | str | None
    cookie_handler: CookieTransport | None
    max_age: float | timedelta | None
    absolute_max_age: float | timedelta | None
    origin: str | Collection[str] | None
    renew_on: Collection[str]
    csrf: CSRF | None
    codec: EncryptedCodec | None
    max_sessions: int | None
    max_bytes: int
    max_fields: int
    adopt: Collection[Reader]
    on_signal: Callable[[Signal], None] | None
    telemetry: Telemetry | None
    clock: Callable[[], float]


class Sessions(Functions, Served):
    """Sessions over one store and one cookie, with the functions as methods.

    Args:
        session_store: a store, or its URL (`memory:`, `file:DIR`, `redis://…`, …). By default the memory of this
            process, which no other process sees.
        cookie_handler: a `CookieHandler`, or a `CookieTransport` of your own.
        max_age: idle time-out, in seconds or as a timedelta; by default the store's, else 30 minutes
            (OWASP ASVS 5.0, 7.3.1).
        absolute_max_age: the age, in seconds or as a timedelta, at which a session ends however busy it is; 30 days
            by default, `None` for none (OWASP ASVS 5.0, 7.3.2).
        origin: where the application lives in public, `https://shop.example`, or several of these. Secure and the
            cookie's `__Host-` follow from it; without it the request's own scheme decides.
        renew_on: keys of the mapping whose writing means log-in: it renews the cookie in the same step.
        csrf: which requests are refused because another site may have forged them: a `CSRF(...)`, or `None` for no
            check by the middlewares.
        codec: an `EncryptedCodec(keys)`, with which the store holds nothing that can be read, moved or forged.
        max_sessions: how many sessions an owner may have at a time (OWASP ASVS 5.0, 7.1.2): a log-in beyond that ends
            the oldest. By default the oldest end where there are more than about 1,000.
        max_bytes: how many bytes the fields of a session may take, as stored; beyond it a write is a `LimitError`.
            Writes that never read the session can exceed it together, until one that has read it whole.
        max_fields: how many keys a session may have; likewise.
        adopt: readers of the sessions that visitors have of another library (`server_session.adopt`). Whoever comes
            with such a cookie, and with none of ours that lives, is given a session with that data, once.
        on_signal: called with each `Signal` of a session's life.
        telemetry: an `OpenTelemetry()` of `server_session.otel`, for metrics and spans.
        clock: seconds since the epoch, for tests.

    Raises:
        ConfigurationError: a setting that cannot work.

    """

    def __init__(self, **settings: Unpack[Settings]) -> None:
        for keyword in settings.keys() - Settings.__annotations__.keys():
            raise unknown_option("configure()", keyword, sorted(Settings.__annotations__), _HINTS)
        self.base = self
        self.store = _store(settings.get("session_store"))
        if (fit := getattr(self.store, "fit", None)) is not None:
            # The store has another library's layout, and adapts the settings to it, or refuses them.
            settings = fit(settings)
        self.origins = origins_of(settings.get("origin"))
        cookie = settings.get("cookie_handler")
        wanted = "a CookieHandler(...) or an object of a subclass of CookieTransport"
        require(cookie is None or _has(cookie, _TRANSPORT_METHODS), "cookie_handler", wanted, cookie)
        self._cookie_given = CookieHandler() if cookie is None else cookie
        self.cookie = self._bound(self._cookie_given)
        self.csrf = csrf = settings.get("csrf", CSRF())
        require(csrf is None or isinstance(csrf, CSRF), "csrf", "a CSRF(...), or None for no check", csrf)
        self.policy = self._policy(settings)

    def _policy(self, settings: Settings) -> Policy:
        renew_on, adopt = settings.get("renew_on", RENEW_ON), settings.get("adopt", ())
        are_keys = _are(str, renew_on) and not isinstance(renew_on, str | bytes)
        require(are_keys, "renew_on", "a collection of keys, as in ('user',)", renew_on)
        require(_are(Reader, adopt), "adopt", "a list of readers of server_session.adopt", adopt)
        if adopt and getattr(self.store, "evicts", False):
            raise ConfigurationError(
                "adopt needs a store that keeps what it is given: one that evicts would forget which sessions were "
                "taken over and ended, and give them out again"
            )
        store = self.store if self.store.colour is Colour.INSTANT else CircuitStore(self.store)
        hearers: list[Callable[[Signal], None]] = []
        if (on_signal := settings.get("on_signal")) is not None:
            require(callable(on_signal), "on_signal", "a function", on_signal)
            hearers.append(on_signal)
        if (telemetry := settings.get("telemetry")) is not None:
            is_one = _has(telemetry, _TELEMETRY_METHODS)
            require(is_one, "telemetry", "an OpenTelemetry() of server_session.otel", telemetry)
            hearers.append(telemetry.on_signal)
            store = telemetry.over(store)
        signals = Signals(*hearers)
        if (codec := settings.get("codec")) is not None:
            store = SealedStore(store, codec, signals.unreadable)
        clock, most = settings.get("clock", time.time), settings.get("max_sessions")
        require(callable(clock), "clock", "a function", clock)
        return Policy(
            store=store,
            idle=seconds_if_given("max_age", settings.get("max_age")) or self.store.max_age or IDLE_SECONDS,
            absolute=seconds_if_given("absolute_max_age", settings.get("absolute_max_age", ABSOLUTE_AGE)),
            renew_on=frozenset(renew_on),
            signals=signals,
            now=clock,
            max_sessions=None if most is None else count_of("max_sessions", most),
            max_bytes=count_of("max_bytes", settings.get("max_bytes", MAX_BYTES)),
            max_fields=count_of("max_fields", settings.get("max_fields", MAX_FIELDS)),
            token_age=None if self.csrf is None else self.csrf.token_age,
            single_use=self.csrf is not None and self.csrf.single_use,
            adopt=tuple(adopt),
        )

    def adapted(self, idle: float | None, cookie: Mapping[str, Any]) -> "Sessions":
        """Return these sessions with what a framework's own settings say: idle seconds, attributes of the cookie.

        Raises `ConfigurationError` where they cannot be applied.
        """
        adapted = copy.copy(self)
        vars(adapted).pop("sync", None)
        if idle is not None:
            adapted.policy = self.policy._replace(idle=idle)
        if cookie:
            given = self._cookie_given
            if not isinstance(given, CookieHandler):
                raise ConfigurationError(f"they cannot be applied to a {type(given).__name__!r}; leave either out")
            adapted.cookie = self._bound(given.replace(**cookie))
        return adapted

    def _bound(self, cookie: CookieTransport) -> CookieTransport:
        return cookie.bind(origin_is_https=self.origins[0].startswith("https:")) if self.origins else cookie

    @cached_property
    def sync(self) -> BlockingFunctions:
        """The same functions, blocking."""
        return BlockingFunctions(self)

    def sessions_for(self, carrier: Carrier | None) -> "Sessions":  # noqa: ARG002
        """Return these, whatever the request."""
        return self


_configured: Sessions | None = None


def configure(**settings: Unpack[Settings]) -> Sessions:
    """Configure the sessions that the functions of `server_session` and `server_session.sync` serve; return them.

    The arguments are those of `Sessions`. Call it once, where the application is made, in every worker process.
    A second call replaces the first.
    """
    global _configured  # noqa: PLW0603 - the one default, that the functions are about
    _configured = Sessions(**settings)
    return _configured


def configured() -> Sessions:
    """Return what `configure` made; raises `NotConfiguredError` before it was called."""
    if _configured is None:
        raise NotConfiguredError(
            "server_session is not configured: call `server_session.configure()` where the application is made, "
            "or use the methods of a `Sessions(...)` of your own"
        )
    return _configured


def chosen(sessions: Sessions | None, settings: Settings) -> Sessions | None:
    """Return the sessions that a middleware was given, or those of the settings given; `None` for the default."""
    if sessions is None:
        return Sessions(**settings) if settings else None
    if settings:
        raise ConfigurationError(f"give either sessions or its settings ({', '.join(settings)}), not both")
    require(isinstance(sessions, Sessions), "sessions", "a Sessions(...)", type(sessions).__name__)
    return sessions


class Extension:
    """The base of what extends a framework's application; it knows the sessions that serve the application."""

    _sessions: Sessions | None  # what `chosen` returned: `None` stands for the default

    @property
    def sessions(self) -> Sessions:
        """The sessions that are served; raises `NotConfiguredError` if they are the default and there is none."""
        return self._sessions or configured()


class ApplicationExtension(Extension, Generic[A]):
    """An extension that is given the application which it serves.

    Args:
        app: the application; without it call `init_app`.
        sessions: a `Sessions`; by default what `configure` made, or one of the keywords given here.
        watch: seconds or a timedelta between two questions to the store whether the session of an open WebSocket still
            lives; by default nobody asks.
        settings: the keywords of `configure`, for sessions of this application's own.
    """

    def __init__(
        self,
        app: A | None = None,
        sessions: Sessions | None = None,
        watch: float | timedelta | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        self._sessions = chosen(sessions, settings)
        self.watch = seconds_if_given("watch", watch)
        """Seconds, or `None`."""
        if app is not None:
            self.init_app(app)

    def init_app(self, app: A) -> None:
        """Serve this application too."""
        raise NotImplementedError


class _Default(Functions):
    def sessions_for(self, carrier: Carrier | None) -> Sessions:
        """Return the sessions that a module's function serves for this carrier, or for no request in particular.

        They are what `configure` made, or those of the middleware that serves the request where it was not called.
        """
        request = serving() if carrier is None else carrier.request
        served: list[Sessions] = [] if request is None else request.served
        if _configured is None:
            return served[-1] if served else configured()
        # Else functions and request.session would use two sessions, and each seem to lose what the other keeps.
        if served and _configured not in served and (carrier is None or carrier.response is None):
            raise ConfigurationError(
                "this request is served by sessions of its middleware's own, and the functions by those of "
                "configure(): give the settings to configure() alone, or call the methods of the Sessions(...) that "
                "the middleware has"
            )
        return _configured


DEFAULT: Final = _Default()
BLOCKING_DEFAULT: Final = BlockingFunctions(DEFAULT)


def _store(given: SessionStore | str | None) -> SessionStore:
    if given is None:
        return MemorySessionStore()
    if isinstance(given, str):
        return open_store(given)
    wanted = (
        f"a store or a store's URL as text (a store has {', '.join(_STORE_METHODS)}, a Colour as colour, and max_age; "
        "a client or an engine is given to one, as in RedisSessionStore(client))"
    )
    has_colour = isinstance(getattr(given, "colour", None), Colour) and hasattr(given, "max_age")
    require(has_colour and _has(given, _STORE_METHODS), "session_store", wanted, type(given).__name__)
    return given


def _has(given: object, methods: tuple[str, ...]) -> bool:
    return not isinstance(given, type) and all(callable(getattr(given, name, None)) for name in methods)


def _are(kind: type, given: object) -> bool:
    # No iterator: it would be empty after this check.
    return isinstance(given, Collection) and all(isinstance(one, kind) for one in given)


_STORE_METHODS: Final = ("id", "get", "set", "merge", "destroy")
_TELEMETRY_METHODS: Final = ("over", "on_signal")
_TRANSPORT_METHODS: Final = ("read", "write", "destroy", "is_present", "expire_elsewhere", "bind")
_HINTS: Final = {
    "secret_key": "nothing is signed, the cookie's value is random: leave it out",
    "session_cookie": "give cookie_handler=CookieHandler(name)",
    "https_only": "give origin='https://…', and Secure follows from it",
    "same_site": "give cookie_handler=CookieHandler(same_site=…)",
    "path": "give cookie_handler=CookieHandler(path=…)",
    "domain": "give cookie_handler=CookieHandler(domain=…)",
}
