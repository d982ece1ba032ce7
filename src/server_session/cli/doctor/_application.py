"""An application object: the sessions that it has, and what its settings will do where it runs."""

import ast
import importlib
import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import click

from server_session._cookies import CookieHandler
from server_session._sessions import Sessions, configured
from server_session.cli.doctor import _store
from server_session.cli.doctor._findings import Report, Severity
from server_session.exceptions import NotConfiguredError, SessionError
from server_session.stores._base import Colour, SessionStore, close_store
from server_session.stores._sealed import EncryptedCodec, SealedStore
from server_session.stores.memory import MemorySessionStore

__all__ = ["examine_application"]

_DAY: Final = 86_400.0
# Beyond it memcached takes an expiry for a moment by its own clock.
_MEMCACHED_DAYS: Final = 30
# What lies within an application, be it a middleware around another or a router with applications.
_WITHIN: Final = (
    *("app", "wsgi_app", "asgi_app", "application", "middleware_stack"),
    *("mounts", "routes", "extensions", "plugins", "_plugins"),
)
_MOST_WITHIN: Final = 1000
_PROXIES: Final = ("werkzeug.middleware.proxy_fix.ProxyFix", "uvicorn.middleware.proxy_headers.ProxyHeadersMiddleware")
_OTHER_SESSIONS: Final = "starlette.middleware.sessions.SessionMiddleware"
# Words that are tried first as a key, because people write them where none was generated.
_DEBUG_WORDS: Final = (
    *("secret", "password", "changeme", "change-me", "change_me", "key", "test", "testing", "debug", "dev"),
    *("development", "insecure", "example", "0123456789", "0123456789abcdef", "abcdefghijklmnopqrstuvwxyz"),
)
_KEY_BYTES: Final = 32


async def examine_application(name: str) -> Report:
    """Return what is wrong with an application, `module:attribute`; raises `UsageError` where there is none."""
    report = Report(name)
    try:
        given = _imported(name)
        sessions = given if isinstance(given, SessionStore) else _sessions_of(given)
    except NotConfiguredError:
        raise click.UsageError(
            f"no sessions were found in {name}: name the Sessions(...) itself, or the application that has them"
        ) from None
    except SessionError as error:
        # With such settings the application does not even start; the error's text says what mends it.
        what, _, mend = str(error).rpartition(": ")
        report.find("configuration", Severity.ERROR, what or str(error), mend)
        return report
    if isinstance(sessions, Sessions):
        _look_at(sessions, [*_within(given)], report)
    store = sessions.store if isinstance(sessions, Sessions) else sessions
    await _store.examine(store, report)
    await close_store(store)
    return report


def _imported(name: str) -> Any:
    module, colon, attributes = name.partition(":")
    if not colon:
        raise click.UsageError(f"{name!r} is neither a store's URL nor an application: that is module:attribute")
    # Servers that are given such a name look in the current directory too.
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise
        raise click.UsageError(f"there is no module {module!r}, seen from {Path.cwd()}") from None
    for attribute in attributes.split("."):
        if not hasattr(found, attribute):
            raise click.UsageError(f"{module} has no {attribute!r}")
        found = getattr(found, attribute)
    return found


def _sessions_of(application: Any) -> Sessions:
    """Return the sessions that an application serves, by default what `configure` made."""
    if isinstance(application, Sessions):
        return application
    for each in _within(application):
        if _is(each, "django.core.handlers.base.BaseHandler"):
            from server_session.django._project import PROJECT

            return PROJECT.sessions()
        if _is(each, "flask.app.Flask", "quart.app.Quart") and hasattr(each.session_interface, "sessions_of"):
            adapted: Sessions = each.session_interface.sessions_of(each)
            return adapted
        for place in (each, getattr(each, "ctx", None), getattr(each, "registry", None)):
            found = getattr(place, "server_session", None)
            for one in (found, getattr(found, "_sessions", None), getattr(place, "_sessions", None)):
                if isinstance(one, Sessions):
                    return one
    return configured()


def _within(application: Any) -> Iterator[Any]:
    """Give an application and all that lies within it."""
    ahead, seen = [application], set[int]()
    while ahead and len(seen) < _MOST_WITHIN:
        each = ahead.pop(0)
        if id(each) in seen or each is None or isinstance(each, str | bytes | int):
            continue
        seen.add(id(each))
        yield each
        if isinstance(each, list | tuple | dict | frozenset):
            ahead += each.values() if isinstance(each, dict) else each
            continue
        if _is(each, "starlette.applications.Starlette") and each.middleware_stack is None:
            # Made at its first request, and here for a look.
            ahead.append(each.build_middleware_stack())
        ahead += [getattr(each, name) for name in _WITHIN if name in _names_of(each)]


def _names_of(each: Any) -> set[str]:
    routes = ("routes",) if _is(each, "starlette.routing.Router") else ()
    return {*getattr(each, "__dict__", ()), *getattr(type(each), "__slots__", ()), *routes}


def _is(each: Any, *names: str) -> bool:
    # By name, so that no framework is imported that the application did not.
    return any(f"{base.__module__}.{base.__qualname__}" in names for base in type(each).__mro__)


def _look_at(sessions: Sessions, within: list[Any], report: Report) -> None:
    report.facts |= {
        "cookie": sessions.cookie.name,
        "origin": ", ".join(sessions.origins) or None,
        "idle_seconds": sessions.policy.idle,
        "absolute_seconds": sessions.policy.absolute,
        "workers": _workers(),
    }
    _look_at_serving(sessions, within, report)
    _look_at_origin(sessions, within, report)
    _look_at_cookie(sessions, report)
    _look_at_rivals(sessions.cookie.name, within, report)
    _look_at_csrf(sessions, report)
    _look_at_life(sessions, report)
    _look_at_keys(sessions.policy.store, report)


def _look_at_serving(sessions: Sessions, within: list[Any], report: Report) -> None:
    awaits = any(_is(each, "server_session.asgi.SessionMiddleware") for each in within)
    is_served = awaits or any(
        _is(each, "server_session.wsgi.SessionMiddleware", "server_session.flask.ServerSession") for each in within
    )
    if _is(within[0], "starlette.applications.Starlette", "flask.app.Flask") and not is_served:
        report.find(
            "not_served",
            Severity.WARNING,
            "nothing of this library serves the application: there is no session in its requests, and no request is "
            "checked, whatever its views are marked with",
            "app.add_middleware(SessionMiddleware), in Flask ServerSession(app)",
        )
    blocks = any(_is(each, "flask.app.Flask", "django.core.handlers.wsgi.WSGIHandler") for each in within)
    if blocks and not awaits and sessions.store.colour is Colour.AWAITS:
        report.find(
            "awaiting_driver",
            Severity.ERROR,
            "the store's client awaits, and the application blocks: whatever asks for a session fails",
            "take a driver that blocks: postgresql+psycopg, mysql+pymysql",
        )


def _look_at_origin(sessions: Sessions, within: list[Any], report: Report) -> None:
    mend = "give configure() origin='https://…', where visitors find the application"
    proxies = [type(each).__name__ for each in within if _is(each, *_PROXIES)]
    proxies += [name for name in ("FORWARDED_ALLOW_IPS",) if name in os.environ]
    if not sessions.origins:
        report.find(
            "no_origin",
            Severity.WARNING if proxies else Severity.NOTE,
            "no origin is configured: each request's own scheme and Host decide whether the cookie is Secure and which "
            "forms are the application's own"
            + (f"; and it is set for a proxy ({', '.join(proxies)})" if proxies else ""),
            mend,
        )
    for origin in sessions.origins:
        host = origin.partition("://")[2]
        if origin.startswith("http:") and not _store._is_loopback(re.sub(r":\d+$", "", host).strip("[]")):
            report.find(
                "http_origin",
                Severity.ERROR,
                f"the origin {origin} is http: everybody on the way reads the cookie, and is then that visitor",
                mend,
            )


def _look_at_cookie(sessions: Sessions, report: Report) -> None:
    cookie = sessions.cookie
    if not isinstance(cookie, CookieHandler):
        return
    if cookie.same_site == "none" and not cookie.partitioned:
        report.find(
            "same_site_none",
            Severity.WARNING,
            "SameSite=None: every other site's requests come with the cookie, and browsers that keep no cookies of "
            "third parties drop it",
            "leave same_site out, or where the application is embedded say partitioned=True beside it",
        )
    if cookie.same_site == "strict":
        report.find(
            "same_site_strict",
            Severity.WARNING,
            "SameSite=Strict: who follows a link from elsewhere, or comes back from a log-in by OAuth, comes without "
            "the cookie, and a first write there replaces his log-in",
            'leave same_site out: it is "lax"',
        )
    if not cookie.http_only:
        report.find(
            "script_reads_cookie",
            Severity.ERROR,
            "http_only=False: any script in a page reads the cookie, and sends it where it likes",
            "leave http_only out",
        )
    if cookie.secure is False and not any(origin.startswith("http:") for origin in sessions.origins):
        report.find(
            "not_secure",
            Severity.ERROR,
            "secure=False: the cookie goes over http too, for everybody on the way to read",
            "leave secure out: it follows the origin",
        )
    if cookie.secure and any(origin.startswith("http:") for origin in sessions.origins):
        report.find(
            "secure_over_http",
            Severity.ERROR,
            "the cookie is Secure and the origin is http: no browser keeps it but on loopback",
            "give an https origin",
        )
    if cookie.domain:
        report.find(
            "shared_cookie",
            Severity.NOTE,
            f"the cookie goes to {cookie.domain} and all below it: each of these sites can read it and set another",
            "leave domain out, unless they are all yours",
        )


def _look_at_rivals(name: str, within: list[Any], report: Report) -> None:
    for each in within:
        if _is(each, _OTHER_SESSIONS):
            rival, whose = each.session_cookie, "Starlette's SessionMiddleware"
        elif _is(each, "flask.app.Flask") and each.secret_key and not hasattr(each.session_interface, "sessions_of"):
            rival, whose = each.config["SESSION_COOKIE_NAME"], "Flask's own session (it has a SECRET_KEY)"
        else:
            continue
        if rival == name:
            report.find(
                "cookie_collision",
                Severity.ERROR,
                f"{whose} sets a cookie that is named {name} too, and browsers keep one of the two",
                "leave it out, or give ours another name: cookie_handler=CookieHandler('…')",
            )
        else:
            report.find(
                "two_sessions",
                Severity.WARNING,
                f"{whose} is there beside ours: what is written to its session stands in a cookie, and does not end "
                "with a log-out",
                "leave it out",
            )


def _look_at_csrf(sessions: Sessions, report: Report) -> None:
    cookie, csrf = sessions.cookie, sessions.csrf
    if csrf is None:
        report.find(
            "no_csrf",
            Severity.WARNING if cookie.withheld_cross_site else Severity.ERROR,
            "csrf=None: no request is checked for another site's hand",
            "leave csrf out, and mark with @csrf_exempt what other servers call",
        )
    elif csrf.mode == "report":
        report.find(
            "csrf_reports",
            Severity.WARNING,
            'CSRF(mode="report") refuses nothing',
            'take mode="layered" when the log names no request of your own pages any more',
        )


def _look_at_life(sessions: Sessions, report: Report) -> None:
    policy, store = sessions.policy, sessions.store
    workers = _workers()
    if isinstance(store, MemorySessionStore):
        report.find(
            "memory_store",
            Severity.ERROR if workers > 1 else Severity.NOTE,
            f"sessions are in the memory of one process, and there are {workers}: visitors are logged out at random"
            if workers > 1
            else "sessions are in the memory of one process: when it starts anew everybody is logged out",
            "session_store='file:DIR' for several processes of one machine; Redis or a database for several machines",
        )
    if type(store).__name__ == "MemcachedSessionStore" and policy.idle > _MEMCACHED_DAYS * _DAY:
        report.find(
            "long_for_memcached",
            Severity.WARNING,
            f"max_age is {policy.idle / _DAY:.0f} days: beyond {_MEMCACHED_DAYS} memcached takes an expiry for a "
            "moment by its own clock of the day",
            "keep its clock in step, or take a shorter max_age",
        )
    if getattr(store, "evicts", False) and policy.max_sessions is not None:
        report.find(
            "no_owners",
            Severity.ERROR,
            f"max_sessions needs owners, and {type(store).__name__} may drop what it holds: log_in refuses",
            "take a store that keeps what it is given, or leave max_sessions out",
        )
    if policy.absolute is None:
        report.find(
            "no_absolute_age",
            Severity.NOTE,
            "absolute_max_age is None: a stolen cookie that is kept busy lives for ever (OWASP ASVS 5.0, 7.3.2)",
            "give absolute_max_age=timedelta(days=30)",
        )
    if not policy.renew_on:
        report.find(
            "no_renewal",
            Severity.WARNING,
            "renew_on is empty: a log-in written to the mapping keeps the cookie that a visitor came with, which "
            "another may have given him (session fixation)",
            "leave renew_on out, or log in by log_in(…)",
        )


def _look_at_keys(store: Any, report: Report) -> None:
    if not isinstance(store, SealedStore):
        return
    words = [(word.encode() * _KEY_BYTES)[:_KEY_BYTES] for word in _DEBUG_WORDS]
    known = {bytes(range(_KEY_BYTES)), *words, *(bytes([byte]) * _KEY_BYTES for byte in range(256))}
    # EncryptedCodec keeps ciphers and no keys: a known key is recognised by its id.
    ids = {EncryptedCodec([secret])._newest for secret in known}
    if ids & store._codec._ciphers.keys():
        report.find(
            "debug_key",
            Severity.ERROR,
            "a key of EncryptedCodec is one that anybody would try first",
            "EncryptedCodec.generate_key() makes one; put it behind the old one until all sessions are sealed anew",
        )


def _workers() -> int:
    """Return how many processes will serve the application, as far as the environment and gunicorn's file say."""
    told = [os.environ.get("WEB_CONCURRENCY", "")]
    with suppress(ValueError):
        words = shlex.split(os.environ.get("GUNICORN_CMD_ARGS", ""))
        told += [after for word, after in pairwise(words) if word in ("-w", "--workers")]
        told += [word.removeprefix(flag) for flag in ("--workers=", "-w") for word in words if word.startswith(flag)]
    # Bytes, for Python reads the file's own declaration of its encoding; ValueError is a null byte, up to 3.11.
    with suppress(OSError, SyntaxError, ValueError):
        for line in ast.parse(Path("gunicorn.conf.py").read_bytes()).body:
            if not isinstance(line, ast.Assign | ast.AnnAssign) or line.value is None:
                continue
            targets = line.targets if isinstance(line, ast.Assign) else [line.target]
            if any(ast.unparse(target) == "workers" for target in targets):
                # A number that is computed there mostly follows the processors, and is more than one.
                told.append(str(line.value.value) if isinstance(line.value, ast.Constant) else str(os.cpu_count() or 2))
    return max([1, *(int(each) for each in told if each.isdecimal())])
