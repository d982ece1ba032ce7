"""The sessions that a project's settings make."""

import threading
import weakref
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, Final

from django.conf import settings
from django.core.signals import setting_changed
from django.utils import timezone

from server_session._codec import decode_value
from server_session._cookies import CookieHandler, CookieTransport
from server_session._csrf import CSRF
from server_session._policy import Policy
from server_session._record import CREATED, life_of, time_of
from server_session._sessions import Sessions, Settings, configure, configured
from server_session.exceptions import ConfigurationError, NotConfiguredError
from server_session.stores import _base as contract
from server_session.stores._base import Expect, Fields, Lifetime, Outcome
from server_session.stores._over import StoreOver

__all__ = ["DJANGOS_MIDDLEWARE", "EXPIRY", "PROJECT"]

DJANGOS_MIDDLEWARE: Final = "django.middleware.csrf.CsrfViewMiddleware"

EXPIRY: Final = "_session_expiry"
"""The key under which Django's `set_expiry` keeps what it was told."""

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


class _ExpiringStore(StoreOver):
    """Gives a record the lifetime that `set_expiry` asked for, in the very write that brings the wish."""

    def __init__(self, store: contract.SessionStore, policy: Policy) -> None:
        super().__init__(store)
        self._policy = policy

    async def set(self, key: str, fields: Fields, lifetime: Lifetime, expect: Expect | None = None) -> Outcome:
        wish = fields.get(EXPIRY)
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
        if lifetime is None and (EXPIRY in changed or EXPIRY in removed):
            lifetime = self._lifetime(changed.get(EXPIRY), await self._remaining(key))
        return await self._store.merge(key, changed, removed, expect, lifetime)

    async def _remaining(self, key: str) -> float | None:
        """Return what is left to the deadline, which no new lifetime may move."""
        fields = await self._store.get(key, {}, False)
        # No record, or the mark of an ended one: the write will not apply.
        if isinstance(fields, Outcome) or CREATED not in fields:
            return self._policy.absolute
        age = max(0.0, self._policy.now() - time_of(fields, CREATED))
        remaining = self._policy.lifetime_of(life_of(fields), age).remaining
        return None if remaining is None else max(remaining, _SHORTEST)

    def _lifetime(self, wish: bytes | None, remaining: float | None) -> Lifetime:
        expiry = None if wish is None else decode_value(EXPIRY, wish)
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
        if setting in ("SERVER_SESSION", "CSRF_TRUSTED_ORIGINS") or setting.startswith("SESSION_"):
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
        # Django's expiry is read from plain values: its store lies over the sealed one.
        given.pop("codec", None)
        is_https = bool(plain.origins) and plain.origins[0].startswith("https:")
        sessions = configure(
            session_store=_ExpiringStore(plain.policy.store, plain.policy),
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
    return {"absolute_max_age": None, **given, **_policy(given)}


def _policy(given: Mapping[str, Any]) -> dict[str, CSRF]:
    """Return the policy with the origins that the project trusts in Django's own words."""
    policy = given.get("csrf", CSRF())
    # One with a wildcard is refused by the middleware that would need it.
    trusted = [origin for origin in settings.CSRF_TRUSTED_ORIGINS if "*" not in origin]
    if not trusted or not isinstance(policy, CSRF) or DJANGOS_MIDDLEWARE in settings.MIDDLEWARE:
        return {}
    words: dict[str, Any] = {**vars(policy), "trusted_origins": (*policy.trusted_origins, *trusted)}
    try:
        return {"csrf": CSRF(**words)}
    except ConfigurationError as error:
        raise ConfigurationError(f"CSRF_TRUSTED_ORIGINS: {error}") from None


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


PROJECT: Final = _Project()
