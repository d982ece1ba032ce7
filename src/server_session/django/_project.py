"""The sessions that a project's settings make."""

import threading
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from django.conf import settings
from django.core.signals import setting_changed
from django.utils import timezone

from server_session._codec import decode_value
from server_session._cookies import CookieHandler
from server_session._policy import Wish
from server_session._sessions import Sessions, configure, configured
from server_session.csrf.policy import CSRF
from server_session.exceptions import ConfigurationError, NotConfiguredError
from server_session.stores._base import Lifetime, SessionStore

__all__ = ["EXPIRY", "PROJECT", "required"]

EXPIRY: Final = "_session_expiry"
"""The key under which Django's `set_expiry` keeps what it was told."""

# An age that is over is written as this, for a record lives or is not written.
_SHORTEST: Final = 1e-6

_OUR_CHECK: Final = "server_session.django.CsrfViewMiddleware"
_OUR_TOKENS: Final = "server_session.django.csrf"
_DJANGOS_CHECK: Final = "django.middleware.csrf.CsrfViewMiddleware"

_COOKIE_SETTINGS: Final = {
    "SESSION_COOKIE_NAME": "name",
    "SESSION_COOKIE_DOMAIN": "domain",
    "SESSION_COOKIE_PATH": "path",
    "SESSION_COOKIE_HTTPONLY": "http_only",
    "SESSION_COOKIE_SAMESITE": "same_site",
}


def _lifetime(wish: bytes | None, usual: Lifetime) -> Lifetime:
    """Return the lifetime that `set_expiry` asked for."""
    idle, remaining = usual
    remaining = None if remaining is None else max(remaining, _SHORTEST)
    expiry = None if wish is None else decode_value(EXPIRY, wish)
    if not expiry:
        return Lifetime(idle, remaining)
    if isinstance(expiry, int | float):
        return Lifetime(max(float(expiry), _SHORTEST), remaining)
    moment = expiry if isinstance(expiry, datetime) else datetime.fromisoformat(expiry)
    seconds = max((moment - timezone.now()).total_seconds(), _SHORTEST)
    return Lifetime(seconds, seconds if remaining is None else min(seconds, remaining))


_WISH: Final = Wish(EXPIRY, _lifetime)


class _Project:
    """What the project's settings make: the configured default, and again where a test changes them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions: Sessions | None = None
        self.saves_every_request = False
        self._opened: tuple[object, SessionStore] | None = None
        setting_changed.connect(self._forget)

    def sessions(self) -> Sessions:
        """Return the sessions of the project's settings.

        Raises `ConfigurationError` for a setting that cannot work, and where `configure` was called beside them.
        """
        with self._lock:
            try:
                default = configured()
            except NotConfiguredError:
                default = None
            if self._sessions is None or self._sessions is not default:
                if default is not None and default.policy.wish is not _WISH:
                    raise ConfigurationError(
                        "configure() was called in a Django project: give its keywords in the setting "
                        "SERVER_SESSION, so that request.session and the functions are one"
                    )
                self._sessions = self._make()
            return self._sessions

    def _forget(self, *, setting: str, **_: object) -> None:
        # The cookie's name that was put into the settings within a change of another one ends with that.
        is_lost = self._sessions is not None and self._sessions.cookie.name != settings.SESSION_COOKIE_NAME
        if is_lost or setting in ("SERVER_SESSION", "CSRF_TRUSTED_ORIGINS") or setting.startswith("SESSION_"):
            self._sessions = None

    def _make(self) -> Sessions:
        given = _given()
        age = settings.SESSION_COOKIE_AGE
        if isinstance(age, bool) or not isinstance(age, int | float) or not age > 0:
            raise ConfigurationError(f"SESSION_COOKIE_AGE is a positive number of seconds, not {age!r}")
        asked = given.pop("session_store", None)
        # A test that changes another setting keeps its sessions.
        store = self._opened[1] if self._opened is not None and self._opened[0] == asked else asked
        sessions = configure(session_store=store, max_age=age, **given)
        sessions.policy = sessions.policy._replace(wish=_WISH)
        self._opened = (asked, sessions.store)
        self.saves_every_request = bool(settings.SESSION_SAVE_EVERY_REQUEST)
        _choose_cookie(sessions)
        return sessions


class _ChosenName(str):
    """A cookie's name that this module has put into the settings, as opposed to one that the project has."""

    __slots__ = ()


def _given() -> dict[str, Any]:
    given = getattr(settings, "SERVER_SESSION", {})
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"SERVER_SESSION is a dict of configure's keywords, not {type(given).__name__!r}")
    if "max_age" in given:
        raise ConfigurationError(
            "SERVER_SESSION has max_age, but in Django the idle time-out is SESSION_COOKIE_AGE: set that, in seconds"
        )
    is_djangos = _DJANGOS_CHECK in settings.MIDDLEWARE
    processors = [one.get("OPTIONS", {}).get("context_processors", ()) for one in settings.TEMPLATES]
    if is_djangos and _OUR_CHECK not in settings.MIDDLEWARE and any(_OUR_TOKENS in names for names in processors):
        raise ConfigurationError(
            f"MIDDLEWARE has {_DJANGOS_CHECK!r}, which refuses the tokens of the context processor {_OUR_TOKENS!r}: "
            f"put {_OUR_CHECK!r} in its place, or leave the context processor out"
        )
    policy = given.get("csrf", CSRF())
    if isinstance(policy, CSRF) and not is_djangos:
        try:
            policy = policy.trusting(settings.CSRF_TRUSTED_ORIGINS)
        except ConfigurationError as error:
            raise ConfigurationError(
                f"CSRF_TRUSTED_ORIGINS: {error}; or leave them to a check that is not server_session's, by "
                'SERVER_SESSION = {"csrf": None}'
            ) from None
    return {"absolute_max_age": None, **given, "csrf": policy}


def _choose_cookie(sessions: Sessions) -> None:
    """Give the cookie what the project's own settings say of it."""
    overridden = {name: getattr(settings, name) for name in _COOKIE_SETTINGS if settings.is_overridden(name)}
    explicit = {name: value for name, value in overridden.items() if not isinstance(value, _ChosenName)}
    attributes: dict[str, Any] = {_COOKIE_SETTINGS[name]: value for name, value in explicit.items()}
    if isinstance(sessions.cookie, CookieHandler):
        if sessions.cookie.max_age is not None:
            raise ConfigurationError(
                "the cookie_handler has max_age, but in Django the cookie's age is SESSION_COOKIE_AGE, or with "
                "SESSION_EXPIRE_AT_BROWSER_CLOSE until the browser closes"
            )
        attributes["max_age"] = None if settings.SESSION_EXPIRE_AT_BROWSER_CLOSE else settings.SESSION_COOKIE_AGE
        if settings.SESSION_COOKIE_SECURE is True:
            attributes["secure"] = True
        if not sessions.cookie.is_named:
            attributes.setdefault("name", "sessionid")
    try:
        sessions.cookie = sessions.adapted(None, attributes).cookie
    except ConfigurationError as error:
        raise ConfigurationError(f"{', '.join(explicit) or 'SESSION_COOKIE_*'}: {error}") from None
    if isinstance(sessions.cookie, CookieHandler) and sessions.cookie.name != settings.SESSION_COOKIE_NAME:
        # Whatever else reads the cookie's name, Django's test client for one, looks for it in the setting.
        settings.SESSION_COOKIE_NAME = _ChosenName(sessions.cookie.name)


def required(policy: CSRF | None) -> CSRF:
    """Return the policy by which a request is checked; without one there would be no check, and here one is wanted."""
    if policy is None:
        raise ConfigurationError(
            "SERVER_SESSION has csrf=None, and server_session's CsrfViewMiddleware or csrf_protect is there to check: "
            "leave either out"
        )
    return policy


PROJECT: Final = _Project()
