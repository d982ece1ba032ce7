"""A site whose visitors come from another library, and what is asked of it."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from server_session import MemorySessionStore, NotFreshError, SessionStore
from server_session._tokens import Credential
from server_session.adopt import Reader
from server_session.stores.redis import RedisSessionStore
from tests.asgi_client import call, scope_of
from tests.attacks.stage import INTERFACES, Reply, Request, Site, timed_site
from tests.patience import PATIENCE

__all__ = [
    "AT_ONCE",
    "ENDPOINTS",
    "KINDS",
    "MINUTE",
    "at_once",
    "is_credential",
    "over_both",
    "shown",
    "site_maker",
    "site_of",
]

AT_ONCE = 50
SAME_ORIGIN = ("sec-fetch-site", "same-origin")

MINUTE = 61.0
"""After which what is remembered for a minute is forgotten."""

# In the short form over the store in which most can go wrong; fifty requests at once always over each.
KINDS = (pytest.param("memory", marks=pytest.mark.again), "redis")

over_both = pytest.mark.parametrize("interface", INTERFACES)


async def whole(request: Request) -> str:
    """All that is in the session, with its types."""
    return shown(await request.functions.get_session_data(request.carrier))


async def fresh(request: Request) -> str:
    try:
        await request.functions.require_fresh(request.carrier, 1_000_000_000)
    except NotFreshError:
        return "not fresh"
    return "fresh"


async def number(request: Request) -> Any:
    """Write a key of the number's own."""
    text = request.body.decode()
    return await request.functions.set_session_data(request.carrier, {text: int(text)})


ENDPOINTS = {"/whole": whole, "/fresh": fresh, "/number": number}


def shown(data: dict[str, Any]) -> str:
    return repr(sorted(data.items()))


def site_of(*readers: Reader, store: SessionStore | None = None, **settings: Any) -> Site:
    return Site("wsgi", ENDPOINTS, session_store=store or MemorySessionStore(), adopt=readers, **settings)


def site_maker(kind: str, url: str, prefix: str) -> Callable[..., Site]:
    """Return what makes a site over this kind of store."""

    def make(interface: str, *readers: Reader, **settings: Any) -> Site:
        if kind == "memory":
            return timed_site(interface, endpoints=ENDPOINTS, adopt=readers, **settings)
        store = RedisSessionStore(url, prefix=prefix)
        return Site(interface, ENDPOINTS, session_store=store, adopt=readers, **settings)

    return make


def at_once(site: Site, path: str, cookie: str, method: str = "GET") -> list[Reply]:
    """Send requests that overlap, as a page's own: as tasks of one loop, or as threads."""
    if site.interface == "wsgi":
        together = threading.Barrier(AT_ONCE)

        def send(number: int) -> Reply:
            together.wait(PATIENCE)
            return site.send(method, path, SAME_ORIGIN, cookie=cookie, body=b"%d" % number)

        with ThreadPoolExecutor(AT_ONCE) as threads:
            return list(threads.map(send, range(AT_ONCE)))

    async def ask(number: int) -> Reply:
        scope = scope_of(path, cookie, method=method)
        scope["headers"] += [tuple(part.encode() for part in SAME_ORIGIN)]
        answer = await call(site.app, scope, b"%d" % number)
        return Reply(answer.status, [(name.decode(), value.decode()) for name, value in answer.headers], answer.body)

    async def ask_all() -> list[Reply]:
        return await asyncio.gather(*map(ask, range(AT_ONCE)))

    return asyncio.run(ask_all())


def is_credential(cookie: str | None) -> bool:
    return bool(cookie) and Credential.parse(str(cookie).partition("=")[2]) is not None
