"""The store: whose data it gives out, what it is like when it is down, and what somebody can do who gets at it."""

import asyncio
import base64
import hashlib
import json
import pickle
import random
import re
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypedDict

import pytest
from flask import Flask, flash, get_flashed_messages, render_template_string
from flask import request as flask_request
from flask import session as flask_session

from server_session import CSRF, EncryptedCodec, MemorySessionStore
from server_session._colour import drive
from server_session._tokens import Credential
from server_session.exceptions import DataTypeError, LimitError, NotFreshError, SerializationError
from server_session.flask import ServerSession
from server_session.stores._base import Fields, Outcome, SessionStore
from server_session.stores.file import FileSessionStore
from server_session.stores.redis import RedisSessionStore
from tests.asgi_client import call, scope_of
from tests.attacks.stage import INTERFACES, Browser, Endpoint, Reply, Request, Site, victim_at
from tests.visitors import Clock, Watched, make_store

KEY = bytes(range(32))
OWN = (b"sec-fetch-site", b"same-origin")

# Over a store that awaits there are no blocking functions.
PLACES = [("asgi", "yielding memory"), *((one, kind) for one in INTERFACES for kind in ("memory", "file", "redis"))]


async def assigned(request: Request, data: dict[Any, Any]) -> None:
    request.session["innocent"] = "written in the same request"
    request.session.update(data)


# What each function does to a session, with data that the test gives.
WRITES: dict[str, Callable[[Request, dict[Any, Any]], Awaitable[Any]]] = {
    "set": lambda request, data: request.functions.set_session_data(request.carrier, data),
    "update": lambda request, data: request.functions.update_session_data(
        request.carrier, lambda now: now.update(data)
    ),
    "replace": lambda request, data: request.functions.replace_session_data(request.carrier, data),
    "replace in place": lambda request, data: request.functions.replace_session_data(
        request.carrier, data, in_place=True
    ),
    "log_in": lambda request, data: request.functions.log_in(request.carrier, "mallory", data),
    "renew": lambda request, data: request.functions.renew_session(request.carrier, data=data),
    "mapping": assigned,
}


@pytest.fixture
def store(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> SessionStore:
    if kind != "redis":
        return make_store(kind, tmp_path, Clock())
    server = request.getfixturevalue("redis_server")
    return RedisSessionStore(server.url, prefix=f"{tmp_path.name}:")


def record_of(store: SessionStore, browser: Browser) -> Fields | Outcome:
    """Return what the store holds for a browser's cookie, as somebody reads it who has the store."""
    return drive(store.get(browser.credential[:24], {}, False))


def tamper(store: SessionStore, browser: Browser, **fields: bytes) -> None:
    """Write fields into a browser's record, as somebody does who has the store."""
    assert drive(store.merge(browser.credential[:24], fields, (), {})) is Outcome.APPLIED


def sent(browser: Browser, path: str = "/call", *, body: bytes = b"") -> Reply | Exception:
    """Make a request of the site's own; return what the application raised, where it did."""
    try:
        return browser.post(path, body=body)
    except ValueError as error:
        return error


# --- two visitors at once


def mixing(leaving: Mapping[str, tuple[int, int]]) -> Endpoint:
    """Return an endpoint that reads and writes in every way, as one visitor, whose name is all that any value may be.

    `leaving` says who hangs up: after which step, and how many turns of the loop later.
    """

    async def mix(request: Request) -> Any:
        name = request.body.decode()
        step, turns = leaving.get(name, (-1, 0))

        async def paused(number: int) -> None:
            # The blocking functions have threads, which take their turns by themselves.
            if "asgi" in request.carrier:
                if number == step:
                    hang_up(asyncio.current_task(), turns)
                await asyncio.sleep(0)

        await paused(0)
        seen = [await request.functions.get_session_data()]
        await paused(1)
        await request.functions.set_session_data({f"of {name}": name})
        await paused(2)
        request.session["mapping"] = name
        seen += [await request.functions.get_session_data(request.carrier), dict(request.session)]
        await paused(3)
        await request.functions.update_session_data(lambda data: data.update(updated=name))
        return [*seen, await request.functions.get_session_data()]

    return mix


def hang_up(task: Any, turns: int) -> None:
    if turns:
        asyncio.get_running_loop().call_soon(hang_up, task, turns - 1)
    else:
        task.cancel()


def names_in(seen: list[dict[str, str]]) -> set[str]:
    return {name for data in seen for key, value in data.items() for name in (value, key.partition("of ")[2] or value)}


class Crowd:
    """Visitors who keep their cookies, and say what they have seen."""

    def __init__(self, site: Site, number: int) -> None:
        self.site = site
        self.visitors = [Browser(site) for _ in range(number)]
        self.names = [f"visitor {number}" for number in range(number)]
        self.answers = 0

    def took(self, number: int, reply: Reply) -> None:
        assert reply.status == 200
        assert names_in(reply.said) <= {self.names[number]}
        self.answers += 1

    async def ask(self, number: int) -> None:
        browser = self.visitors[number]
        scope = scope_of("/mix", browser.cookie, method="POST")
        scope["headers"].append(OWN)
        answer = await call(self.site.app, scope, self.names[number].encode())
        headers = [(name.decode(), value.decode()) for name, value in answer.headers]
        self.took(number, browser._keep(Reply(answer.status, headers, answer.body)))

    def post(self, number: int) -> None:
        self.took(number, self.visitors[number].post("/mix", body=self.names[number].encode()))

    def each_has_their_own(self) -> None:
        cookies = [browser.cookie for browser in self.visitors]
        assert None not in cookies
        assert len(set(cookies)) == len(cookies)
        for number, browser in enumerate(self.visitors):
            assert names_in([browser.get().said]) == {self.names[number]}


@pytest.mark.parametrize("interface, kind", PLACES)
def test_two_sessions_data_do_not_cross_under_load(interface, kind, store):
    """sends many requests of many visitors at once to one application over one store — none sees another's data."""
    crowd = Crowd(Site(interface, {"/mix": mixing({})}, session_store=store), 20)
    if interface == "asgi":

        async def rush() -> None:
            for _ in range(3):
                await asyncio.gather(*(crowd.ask(number) for number in range(20)))

        asyncio.run(rush())
    else:
        for _ in range(3):
            with ThreadPoolExecutor(10) as threads:
                list(threads.map(crowd.post, range(20)))
    assert crowd.answers == 60
    crowd.each_has_their_own()


@pytest.mark.parametrize("kind", ["memory", "yielding memory", "file", "redis"])
def test_two_sessions_data_do_not_cross_where_visitors_hang_up(kind, store):
    """hangs up in the middle of many requests of many visitors — no later answer holds another's data (ASGI)."""
    leaving: dict[str, tuple[int, int]] = {}
    crowd = Crowd(Site("asgi", {"/mix": mixing(leaving)}, session_store=store), 16)
    chance = random.Random(7)
    hung_up = 0

    async def rush() -> None:
        nonlocal hung_up
        for _ in range(6):
            leaving.clear()
            leaving.update({name: (chance.randrange(4), chance.randrange(5)) for name in chance.sample(crowd.names, 8)})
            done = await asyncio.gather(*(crowd.ask(number) for number in range(16)), return_exceptions=True)
            hung_up += sum(isinstance(one, asyncio.CancelledError) for one in done)
            assert not [one for one in done if isinstance(one, Exception)]
        leaving.clear()
        await asyncio.gather(*(crowd.ask(number) for number in range(16)))

    asyncio.run(rush())
    # Some had been served before they left.
    assert hung_up > 10
    assert crowd.answers == 7 * 16 - hung_up
    crowd.each_has_their_own()


# --- a store that is down


async def sessions_of(request: Request, owner: str) -> Any:
    return len(await request.functions.sessions_of(owner, current=request.carrier))


CALLS: dict[str, Callable[[Request], Awaitable[Any]]] = {
    "get": lambda request: request.functions.get_session_data(request.carrier),
    **{name: lambda request, write=write: write(request, {"a": "1"}) for name, write in WRITES.items()},
    "pluck": lambda request: request.functions.pluck_session_property(request.carrier, "user"),
    "destroy": lambda request: request.functions.destroy_session(request.carrier),
    "require_fresh": lambda request: request.functions.require_fresh(request.carrier, 300),
    "token": lambda request: request.functions.get_csrf_token(request.carrier),
    "validate": lambda request: request.functions.validate_csrf_token(request.carrier, "A" * 70),
    "sessions_of": lambda request: sessions_of(request, "victim"),
    "destroy_sessions_of": lambda request: request.functions.destroy_sessions_of("victim"),
}
# Without a cookie these ask nothing of the store, so there is nothing that could fail.
QUIET = {"get", "pluck", "destroy", "require_fresh", "validate"}
EVERYTHING = ("get", "look", "set", "merge", "destroy")


def breaking(store: Watched, step: Callable[[Request], Awaitable[Any]]) -> Endpoint:
    async def broken(request: Request) -> Any:
        # The mapping was loaded before the endpoint was called: only from here on the store is down.
        store.fails = EVERYTHING
        return await step(request)

    return broken


@pytest.mark.parametrize("step", CALLS)
@pytest.mark.parametrize("interface", INTERFACES)
def test_a_store_that_is_down_answers_no_function_with_an_empty_session(interface, step):
    """asks for anything while the store is down — 503; nobody is taken for anonymous, nothing is founded."""
    store = Watched()
    site = Site(interface, {"/call": CALLS[step], "/broken": breaking(store, CALLS[step])}, session_store=store)
    victim = victim_at(site)
    held, cookie = store.store.stats().sessions, victim.cookie
    for visitor in [victim, *([] if step in QUIET else [Browser(site)])]:
        reply = visitor.post("/broken")
        assert (reply.status, reply.all("set-cookie")) == (503, [])
        assert b"victim" not in reply.body
        store.fails = ()
    assert (victim.cookie, store.store.stats().sessions) == (cookie, held)
    assert victim.get().said == {"user": "victim"}
    if step != "validate":
        assert victim.post("/call").status == 200


@pytest.mark.parametrize("interface", INTERFACES)
def test_a_store_that_is_down_lets_no_request_pass_the_check(interface):
    """sends a forged form and a token while the store is down — 503 before the application sees it, and no pass."""
    store = Watched()
    site = Site(interface, session_store=store, csrf=CSRF("strict"))
    victim = victim_at_strict(site)
    token = victim.get("/token").said
    before = record_of(store.store, victim)
    for fails in (EVERYTHING, ("get", "look"), ("get",)):
        site.seen.clear()
        store.fails = fails
        for header in (("X-CSRF-Token", token), ("X-CSRF-Token", "A" * 70)):
            reply = victim.forged("/write", header, ("Origin", "null"), body=b"forged")
            assert reply.status in ((503, 403) if header[1] != token else (503,)), fails
            assert reply.all("set-cookie") == []
        store.fails = ()
        assert site.seen == []
    assert record_of(store.store, victim) == before
    assert victim.forged("/write", ("X-CSRF-Token", token), ("Origin", "null"), body=b"own").status == 200
    assert victim.get().said == {"user": "victim", "note": "own"}


def victim_at_strict(site: Site) -> Browser:
    browser = Browser(site)
    token = browser.get("/token").said
    assert browser.post("/log_in", ("X-CSRF-Token", token)).status == 200
    return browser


@pytest.mark.parametrize("interface", INTERFACES)
def test_a_store_that_goes_down_in_a_log_in_leaves_the_old_session_and_no_half_of_a_new_one(interface):
    """logs in while the store fails at one of its calls — 503 and no cookie; who was logged in still is."""
    store = Watched()

    async def log_in(request: Request) -> Any:
        store.fails = request.body.decode().split()
        return await request.functions.log_in(request.carrier, "mallory", {"user": "mallory"})

    site = Site(interface, {"/failing": log_in}, session_store=store)
    # She is logged in elsewhere, so that a log-in merges into the list of her sessions.
    victim_at(site).post("/failing", body=b"")
    for fails in (b"merge", b"set", b"merge set get look"):
        store.fails = ()
        victim = victim_at(site)
        reply = victim.post("/failing", body=fails)
        store.fails = ()
        assert (reply.status, reply.all("set-cookie")) == (503, [])
        assert victim.get().said == {"user": "victim"}
    assert victim.post("/failing", body=b"").status == 200
    assert victim.get().said == {"user": "mallory"}


# --- what is written into the store by somebody who gets at it

BOMBS = {
    "lists in lists": b"[" * 100_000 + b"]" * 100_000,
    "objects in objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "lists that never end": b"[" * 100_000,
    "tags in tags": b'{"$tuple":[' * 50_000 + b"1" + b"]}" * 50_000,
    "escapes in escapes": b'{"$dict":{"$a":' * 50_000 + b"1" + b"}}" * 50_000,
    "a number of 100,000 digits": b'{"$int":"0x' + b"f" * 100_000,
    "an exponent": b"1e400000",
    "a decimal of many digits": b'{"$decimal":"' + b"9" * 100_000 + b'e"}',
    "text that is not UTF-8": b'"\xff\xfe"',
    "two values": b"1 2",
    "nothing": b"",
    "a tag of no type": b'{"$os.system":"touch /tmp/x"}',
    "a tag of another form": b'{"$uuid":{"$uuid":"00000000-0000-0000-0000-000000000000"}}',
}


@pytest.mark.long
@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("kind", ["memory", "file"])
@pytest.mark.parametrize("interface", INTERFACES)
def test_a_decoder_bomb_in_the_store_is_an_error_of_its_own_session_alone(interface, kind, store, bomb):
    """writes deep nesting or a huge number into a record — 503 for that session; the process serves all others."""
    site = Site(interface, session_store=store)
    victim, other = victim_at(site), victim_at(site)
    tamper(store, victim, plain=b'[[["deep"]]]')
    assert victim.get().said["plain"] == [[["deep"]]]
    tamper(store, victim, plain=BOMBS[bomb])
    for path in ("/whoami", "/count", "/assign"):
        reply = victim.post(path, body=b"x")
        assert (reply.status, reply.all("set-cookie")) == (503, []), path
    assert other.get().said == {"user": "victim"}


# Of another type than the core writes there, though it is JSON.
MISTYPED = [b"null", b'"text"', b"{}", b"[1,2,3,4]", b"-1e308", b"[" * 100_000]


@pytest.mark.parametrize("name", ["created", "former", "life", "outstanding", "authenticated", "stamp", "owner"])
@pytest.mark.parametrize("interface", INTERFACES)
def test_nonsense_in_the_library_s_own_fields_is_an_error_of_its_own(interface, name):
    """writes nonsense into a field of the library's own — 503, or a session that goes on; no bare exception escapes."""
    store = MemorySessionStore()
    endpoints: dict[str, Endpoint] = {
        "/fresh": lambda request: request.functions.require_fresh(request.carrier, 300),
        "/remember": lambda request: request.functions.renew_session(request.carrier, max_age=60),
        "/sessions": lambda request: sessions_of(request, "victim"),
    }
    site = Site(interface, endpoints, session_store=store, csrf=CSRF(single_use=True))
    crashes: list[str] = []
    for value in MISTYPED:
        for path in ("/whoami", "/token", "/fresh", "/remember", "/sessions", "/write", "/log_out"):
            victim = victim_at_strict(site)
            token = victim.get("/token").said
            selector = victim.credential[:24]
            tamper(store, victim, **{f"\0{name}": value})
            for header in (("X-CSRF-Token", token), ("X-CSRF-Token", token[:-1] + "_")):
                try:
                    reply = victim.forged(path, header, ("Sec-Fetch-Site", "same-origin"))
                except NotFreshError:
                    continue
                except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
                    crashes.append(f"{path} over {value[:20].decode()}: {error!r}")
                else:
                    assert reply.status in (200, 403, 503), (value[:20], path)
            drive(store.destroy(selector))
    assert crashes == []


@pytest.mark.parametrize("interface", INTERFACES)
def test_a_record_that_does_not_open_stops_no_log_out_everywhere(interface, tmp_path):
    """damages one of the victim's records — all of them end when the victim logs out everywhere."""
    store = FileSessionStore(tmp_path)
    endpoints: dict[str, Endpoint] = {"/everywhere": lambda request: request.functions.destroy_sessions_of("victim")}
    site = Site(interface, endpoints, session_store=store)
    browsers = [victim_at(site) for _ in range(4)]
    file_of(tmp_path, browsers[1]).write_bytes(b"damaged")
    assert Browser(site).post("/everywhere").said == 4
    assert [browser.get().said for browser in browsers] == [{}, {}, {}, {}]


@pytest.mark.parametrize("most", [None, 10])
@pytest.mark.parametrize("interface", INTERFACES)
def test_a_record_that_does_not_open_locks_nobody_out(interface, most, tmp_path):
    """damages one of the victim's records — the victim can log in all the same, each time."""

    class Tidied(FileSessionStore):
        """One log-in in sixteen, told by its id, looks after what is gone of the owner's sessions: here each does."""

        def id(self) -> str:
            return super().id()[:-1] + "A"

    site = Site(interface, session_store=Tidied(tmp_path), max_sessions=most)
    file_of(tmp_path, victim_at(site)).write_bytes(b"damaged")
    assert [Browser(site).post("/log_in").status for _ in range(3)] == [200, 200, 200]


def file_of(folder: Path, browser: Browser) -> Path:
    (file,) = folder.glob(f"*/{base64.urlsafe_b64decode(browser.credential[:24]).hex()}.session")
    return file


@pytest.mark.parametrize("interface", INTERFACES)
def test_a_huge_text_in_the_store_comes_out_as_it_is(interface):
    """writes a text of 20 MB into a record — it is read as that text, and the session goes on."""
    store = MemorySessionStore()
    site = Site(interface, {"/length": length}, session_store=store, max_bytes=1 << 26)
    victim = victim_at(site)
    tamper(store, victim, huge=b'"' + b"a" * 20_000_000 + b'"')
    assert victim.get("/length").said == 20_000_000
    assert victim.post("/write", body=b"x").said is True


async def length(request: Request) -> Any:
    return len((await request.functions.get_session_data(request.carrier))["huge"])


class Loaded:
    """What pickle would run."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return (Path.touch, (self.trace,))


@pytest.mark.parametrize("interface", INTERFACES)
def test_pickle_in_a_record_is_never_executed(interface, tmp_path):
    """writes a pickle that runs a command into a record, or in a record's place — 503, and nothing is run."""
    store = FileSessionStore(tmp_path / "store")
    site = Site(interface, session_store=store)
    trace = tmp_path / "executed"
    payloads = [pickle.dumps(Loaded(trace), protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    pickle.loads(payloads[-1])  # noqa: S301 - this is what the attack would do
    assert trace.exists()
    trace.unlink()
    for number, payload in enumerate(payloads):
        victim = Browser(site)
        victim.post("/log_in", body=b"victim %d" % number)
        tamper(store, victim, user=payload)
        assert victim.get().status == 503
        file_of(tmp_path / "store", victim).write_bytes(payload)
        assert victim.get().status == 503
        named = {"$pickle": base64.b64encode(payload).decode(), "py/reduce": [], "$bytes": "gASV"}
        innocent = Browser(site)
        innocent.post("/log_in", body=b"innocent")
        tamper(store, innocent, user=json.dumps(named).encode())
        assert innocent.get().said == {"user": named}
    assert not trace.exists()


@pytest.mark.parametrize("trick", ["copied", "linked", "cut short", "emptied", "written over"])
@pytest.mark.parametrize("interface", INTERFACES)
def test_a_file_put_in_another_session_s_place_is_an_error(interface, trick, tmp_path):
    """puts another session's file in the place of his own, or a damaged one — 503, and never another's data."""
    site = Site(interface, session_store=FileSessionStore(tmp_path))
    victim, attacker = victim_at(site), Browser(site)
    attacker.post("/log_in", body=b"mallory")
    theirs, own = file_of(tmp_path, victim), file_of(tmp_path, attacker)
    content = own.read_bytes()
    assert attacker.get().said == {"user": "mallory"}
    if trick == "linked":
        own.unlink()
        own.symlink_to(theirs)
    else:
        put = {
            "copied": theirs.read_bytes(),
            "cut short": content[:-1],
            "emptied": b"",
            "written over": content.replace(b"mallory", b"victim!"),
        }
        own.write_bytes(put[trick])
    reply = attacker.get()
    assert (reply.status, reply.all("set-cookie")) == (503, [])
    assert b"victim" not in reply.body
    assert victim.get().said == {"user": "victim"}


# --- under encryption


def two_at(interface: str, *, is_sealed: bool) -> tuple[Site, SessionStore, Browser, Browser]:
    """Return a site, the store beneath, a victim, and an attacker who is logged in too and can write to the store."""
    store = MemorySessionStore()
    site = Site(interface, session_store=store, codec=EncryptedCodec([KEY]) if is_sealed else None)
    victim, attacker = victim_at(site), Browser(site)
    attacker.post("/log_in", body=b"mallory")
    attacker.post("/write", body=b"victim")
    return site, store, victim, attacker


def stolen(store: SessionStore, browser: Browser) -> Fields:
    fields = record_of(store, browser)
    assert not isinstance(fields, Outcome)
    return fields


@pytest.mark.parametrize("is_sealed", [True, False], ids=["sealed", "plain"])
@pytest.mark.parametrize("interface", INTERFACES)
def test_a_field_moved_to_another_session_does_not_open(interface, is_sealed):
    """copies a field of the victim's record into his own — sealed it is an error; only unsealed would it be read."""
    site, store, victim, attacker = two_at(interface, is_sealed=is_sealed)
    tamper(store, attacker, user=stolen(store, victim)["user"])
    reply = attacker.get()
    if not is_sealed:
        assert reply.said["user"] == "victim"
        return
    assert (reply.status, reply.all("set-cookie")) == (503, [])
    assert site.events[-1] == "unreadable"
    assert site.signals[-1].reason == "damaged"
    assert victim.get().said == {"user": "victim"}


@pytest.mark.parametrize("is_sealed", [True, False], ids=["sealed", "plain"])
@pytest.mark.parametrize("interface", INTERFACES)
def test_a_field_moved_to_another_name_does_not_open(interface, is_sealed):
    """has the word "victim" sealed as a note and copies it to the key of the user — an error, and nobody's log-in."""
    site, store, _, attacker = two_at(interface, is_sealed=is_sealed)
    tamper(store, attacker, user=stolen(store, attacker)["note"])
    reply = attacker.get()
    if not is_sealed:
        assert reply.said["user"] == "victim"
        return
    assert reply.status == 503
    assert site.signals[-1].reason == "damaged"


@pytest.mark.parametrize("interface", INTERFACES)
def test_a_whole_record_moved_under_another_selector_does_not_open(interface):
    """copies the victim's whole record under his own selector, with and without his own digest — never its data."""
    for kept in ((), ("\0digest",), ("\0digest", "\0created")):
        _, store, victim, attacker = two_at(interface, is_sealed=True)
        own = stolen(store, attacker)
        drive(store.destroy(attacker.credential[:24]))
        moved = stolen(store, victim) | {name: own[name] for name in kept}
        assert drive(store.set(attacker.credential[:24], moved, (3600.0, None), None)) is Outcome.APPLIED
        for path in ("/whoami", "/count", "/pluck"):
            reply = attacker.post(path)
            assert reply.status == 503
            assert b"victim" not in reply.body
        assert victim.get().said == {"user": "victim"}


def forged_digest(browser: Browser) -> tuple[str, bytes]:
    """Return a cookie of the attacker's own making for a victim's selector, and the digest that would admit it."""
    selector, verifier = browser.credential[:24], "mallory".ljust(40, "0")
    return f"session={selector}{verifier}", Credential(selector, verifier).digest()


@pytest.mark.parametrize("is_sealed", [True, False], ids=["sealed", "plain"])
@pytest.mark.parametrize("interface", INTERFACES)
def test_a_digest_written_without_the_key_mints_no_cookie(interface, is_sealed):
    """writes the digest of a verifier of his own into the victim's record — sealed, that cookie opens nothing."""
    site, store, victim, _ = two_at(interface, is_sealed=is_sealed)
    cookie, digest = forged_digest(victim)
    tamper(store, victim, **{"\0digest": digest})
    minted = Browser(site, cookie)
    if not is_sealed:
        assert minted.get().said == {"user": "victim"}
        return
    for path in ("/whoami", "/write", "/token", "/log_out"):
        reply = minted.post(path, body=b"x")
        assert reply.status == 503, path
        assert b"victim" not in reply.body
    # Those who know a key of their own are no better off.
    tamper(store, victim, **{"\0digest": EncryptedCodec([bytes(32)]).seal(minted.credential[:24], "\0digest", digest)})
    assert minted.get().status == 503
    assert site.signals[-1].reason == "unknown_key"


@pytest.mark.parametrize("interface", INTERFACES)
def test_a_digest_of_his_own_session_put_into_the_victim_s_admits_nobody(interface):
    """copies the sealed digest of his own session into the victim's record — his verifier opens nothing there."""
    site, store, victim, attacker = two_at(interface, is_sealed=True)
    mixed = Browser(site, f"session={victim.credential[:24]}{attacker.credential[24:]}")
    assert mixed.get().said == {}
    tamper(store, victim, **{"\0digest": stolen(store, attacker)["\0digest"]})
    reply = mixed.get()
    assert (reply.status, b"victim" in reply.body) == (503, False)


@pytest.mark.parametrize("interface", INTERFACES)
def test_who_reads_the_store_finds_nothing_to_log_in_with(interface, tmp_path):
    """reads every byte of the store and tries all that he finds as a cookie — each of them is nobody."""
    store = FileSessionStore(tmp_path)
    site = Site(interface, session_store=store)
    victim = victim_at(site)
    token = victim.get("/token").said
    held = b"".join(file.read_bytes() for file in tmp_path.rglob("*.session"))
    selector, verifier = victim.credential[:24], victim.credential[24:]
    secrets = [
        verifier.encode(),
        base64.urlsafe_b64decode(verifier),
        token.encode(),
        base64.urlsafe_b64decode(token + "=="),
    ]
    for secret in secrets:
        assert not any(form in held for form in (secret, secret.hex().encode(), base64.b64encode(secret)))
    digest = base64.urlsafe_b64decode(stolen(store, victim)["\0digest"].strip(b'"') + b"=")
    assert digest == hashlib.sha256(victim.credential.encode()).digest()
    words = {word.decode() for word in re.findall(rb"[A-Za-z0-9_-]{8,}", held)} | {digest.hex()}
    words |= {base64.urlsafe_b64encode(held[at : at + 30]).decode() for at in range(0, len(held) - 30, 3)}
    tried = {f"{selector}{word:A<40.40}" for word in words} | {f"{word:A<64.64}" for word in words}
    assert len(tried) > 150
    assert not any(site.send(cookie=f"session={one}").said for one in tried)
    assert site.send(cookie=f"session={selector}{verifier}").said == {"user": "victim"}


# --- names and values of the attacker's choice

OWN_NAMES = ["\0digest", "\0owner", "\0ended", "\0created", "\0stamp", "\0former", "\0life", "\0", "\0\0digest"]


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("interface", INTERFACES)
def test_the_library_s_own_field_names_are_refused_as_keys_of_data(interface, write):
    """sends JSON whose keys are the library's own fields — SerializationError, and nothing is written."""

    async def store_body(request: Request) -> Any:
        return await WRITES[write](request, json.loads(request.body))

    store = MemorySessionStore()
    site = Site(interface, {"/call": store_body}, session_store=store)
    victim = victim_at(site)
    before = stolen(store, victim)
    for name in OWN_NAMES:
        body = json.dumps({"innocent": "x", name: Credential("A" * 24, "B" * 40).digest().decode()}).encode()
        assert isinstance(sent(victim, body=body), SerializationError), name
        now = stolen(store, victim)
        assert now == before | {"\0stamp": now["\0stamp"]}
    # The same words without the sign are anybody's.
    ordinary = {name.strip("\0"): "mine" for name in OWN_NAMES if name.strip("\0")}
    assert not isinstance(sent(victim, body=json.dumps(ordinary).encode()), Exception)
    assert ordinary.items() <= victim.get().said.items()


Peek = TypedDict("Peek", {"\0digest": str, "\0created": float, "user": str}, total=False)
Demanding = TypedDict("Demanding", {"\0digest": str})


class Model:
    """What validates by itself, and so is shown all that there is."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    @classmethod
    def model_validate(cls, value: Any) -> "Model":
        return cls(list(value))


@pytest.mark.parametrize("interface", INTERFACES)
def test_the_library_s_own_fields_cannot_be_read_or_taken_out(interface):
    """asks for the library's own fields by name, to pluck, delete or type them — they are not there, and stay."""

    async def peek(request: Request) -> Any:
        functions, carrier = request.functions, request.carrier
        taken = [await functions.pluck_session_property(carrier, name) for name in OWN_NAMES]
        taken += [request.session.pop(name, None) for name in OWN_NAMES]

        def change(data: dict[str, Any]) -> None:
            taken.extend(data.pop(name, None) for name in OWN_NAMES)

        await functions.update_session_data(carrier, change)
        with pytest.raises(DataTypeError):
            await functions.get_session_data(carrier, as_type=Demanding)
        seen = [await functions.get_session_data(carrier, as_type=kind) for kind in (Peek, dict[str, Any])]
        return [*taken, *seen, (await functions.get_session_data(carrier, as_type=Model)).names, list(request.session)]

    store = MemorySessionStore()
    site = Site(interface, {"/peek": peek}, session_store=store)
    victim = victim_at(site)
    before = stolen(store, victim)
    own = {"user": "victim"}
    assert victim.post("/peek").said == [*[None] * 3 * len(OWN_NAMES), own, own, ["user"], ["user"]]
    assert stolen(store, victim) == before
    assert victim.get().said == {"user": "victim"}


DEEP = 100_000


def nested(depth: int, kind: str) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"list": lambda inner: [inner], "dict": lambda inner: {"a": inner}, "tuple": lambda inner: (inner,)}[
            kind
        ](value)
    return value


@pytest.mark.long
@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("interface", INTERFACES)
def test_deep_nesting_is_refused_before_anything_is_written(interface, write):
    """has it store what is nested 100,000 deep, or in itself — SerializationError, and no change at all."""
    endless: list[Any] = []
    endless.append(endless)
    given: dict[str, Any] = {}
    store = MemorySessionStore()
    site = Site(interface, {"/call": lambda request: WRITES[write](request, given)}, session_store=store)
    victim = victim_at(site)
    before = stolen(store, victim)
    for value in (nested(DEEP, "list"), nested(2000, "dict"), nested(2000, "tuple"), nested(65, "list"), endless):
        given = {"fine": 1, "deep": value}
        refused = sent(victim)
        assert isinstance(refused, SerializationError)
        assert refused.key == "deep"
        now = stolen(store, victim)
        assert now == before | {"\0stamp": now["\0stamp"]}
    given = {"fine": 1, "deep": nested(63, "list")}
    assert not isinstance(sent(victim), Exception)
    assert victim.get().said.items() >= given.items()


@pytest.mark.parametrize("interface", INTERFACES)
def test_a_deep_json_body_is_no_error_of_the_check(interface):
    """sends JSON of depth 100,000 where a token is looked for in the body — 403, and the application is not reached."""
    site = Site(interface)
    victim = victim_at(site)
    token = victim.get("/token").said
    site.seen.clear()
    json_type = ("Content-Type", "application/json")
    for body in (
        b'{"csrf_token":' * DEEP,
        b"[" * DEEP,
        b'{"a":' + b"[" * DEEP + b"]" * DEEP + b"}",
        b'{"a":' + b"9" * DEEP + b"}",
    ):
        reply = victim.forged("/write", ("Origin", "null"), json_type, body=body)
        assert (reply.status, site.seen) == (403, [])
    assert victim.forged("/write", ("Origin", "null"), json_type, body=json.dumps({"csrf_token": token}).encode()).said


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("interface", INTERFACES)
def test_a_session_beyond_its_bounds_is_refused_whole(interface, write):
    """fills a session beyond its bytes or keys — LimitError names the key, and nothing is written."""
    given: dict[str, Any] = {}
    store = MemorySessionStore()
    site = Site(
        interface,
        {"/call": lambda request: WRITES[write](request, given)},
        session_store=store,
        max_bytes=4000,
        max_fields=20,
    )
    victim = victim_at(site)
    before = stolen(store, victim)
    for over, named in (
        ({"fine": 1, "big": "x" * 5000}, "'big' (5005 bytes)"),
        ({"fine": 1, "wide": "€" * 1400}, "'wide'"),
        ({f"key{number}": 1 for number in range(30)}, "30 keys"),
        ({"k" * 255: "x" * 4000}, "kkkk"),
    ):
        given = over
        refused = sent(victim)
        assert isinstance(refused, LimitError)
        assert re.search(re.escape(named) if named != "30 keys" else r"3[0-2] keys", str(refused))
        now = stolen(store, victim)
        assert now == before | {"\0stamp": now["\0stamp"]}
    given = {"fine": 1, "big": "x" * 3000}
    assert not isinstance(sent(victim), Exception)
    assert victim.get().said.items() >= given.items()


@pytest.mark.parametrize("interface", INTERFACES)
def test_an_anonymous_visitor_beyond_the_bounds_founds_no_row(interface):
    """fills a first session beyond its bounds, request by request — LimitError each time, and no row in the store."""
    store = MemorySessionStore()
    given = {"big": "x" * 5000}
    endpoints = {"/call": lambda request: request.functions.set_session_data(request.carrier, given)}
    site = Site(interface, endpoints, session_store=store, max_bytes=4000)
    for _ in range(5):
        assert isinstance(sent(Browser(site)), LimitError)
    assert store.stats().sessions == 0
    given = {"big": "x" * 3000}
    assert sent(Browser(site)).said is True
    assert store.stats().sessions == 1


HOSTILE: list[dict[str, Any]] = [
    {name: {name: "x"}, "in": {name: {name: [{name: 1}]}}}
    for name in (
        *("__class__", "__dict__", "__reduce__", "__init__", "__proto__", "constructor", "py/object", "py/reduce"),
        *("$uuid", "$dict", "$set", "$tuple", "$bytes", "$int", "$decimal", "$datetime", "$timedelta", "$", "$$", "$x"),
        *(
            "_type",
            "@type",
            "!!python/object/apply:os.system",
            "{0.__class__}",
            "%s",
            "${jndi:ldap://x}",
            "' OR 1=1 --",
        ),
        *(
            "../../etc/passwd",
            "a\r\nSet-Cookie: x=y",
            "\x00".join("ab"),
            "\u202e",
            "K",
            "\u017f",
            "é",
            "e\u0301",
            "digest",
        ),
    )
] + [
    {"a": {"$dict": {"$uuid": "00000000-0000-0000-0000-000000000000"}}},
    {"a": {"$uuid": "00000000-0000-0000-0000-000000000000"}},
    {"a": {"$set": [1, 1]}, "b": {"$tuple": [[]]}, "c": {"$int": "0xff"}, "d": {"$bytes": "AAAA"}},
    {"a": {"$dict": {"$dict": {"$dict": {"$tuple": []}}}}},
    {"a": [{"$uuid": None}], "b": {"$decimal": "NaN"}, "c": {"$datetime": "2020-01-01T00:00:00", "other": 1}},
    {"a": 2**64 - 1, "b": -(2**63), "c": 10**300, "d": 1e308, "e": 5e-324, "f": -0.0},
    {"e\u0301": 1, "\u00e9": 2, "K": 3, "\u212a": 4, "k": 5, "\u017f": 6, "s": 7, "S": 8},
    {"k": "\u2028 </script><!-- \x7f \x00"},
]


def shape(value: Any) -> Any:
    """Return the value with the types of all that is in it."""
    if isinstance(value, dict):
        return dict, [(key, shape(item)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [shape(item) for item in value]
    return type(value), repr(value)


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("interface, kind", [("asgi", "memory"), ("wsgi", "file"), ("wsgi", "redis")])
def test_keys_and_values_of_his_choice_come_out_as_they_went_in(interface, kind, store, write):
    """sends JSON full of words that mean something to some decoder — it comes out as it went in, never as objects."""
    kept: list[Any] = []

    async def read(request: Request) -> None:
        kept[:] = [await request.functions.get_session_data(request.carrier), dict(request.session)]

    async def store_body(request: Request) -> Any:
        return await WRITES[write](request, json.loads(request.body))

    site = Site(interface, {"/call": store_body, "/read": read}, session_store=store, renew_on=())
    victim = victim_at(site)
    for data in HOSTILE:
        assert not isinstance(sent(victim, body=json.dumps(data).encode()), Exception)
        victim.get("/read")
        for seen in kept:
            assert shape({key: seen[key] for key in data}) == shape(data)


@pytest.mark.parametrize(
    "sent_by_him", [{"markup": "<script>"}, {"$markup": "<script>"}, {"$dict": {"$markup": "<script>"}}, "<script>"]
)
def test_what_he_has_flashed_is_no_markup_of_the_application_s(sent_by_him):
    """sends JSON that looks like stored markup to an application of Flask's that flashes what came, and keeps it — it
    comes out as it went in, and a template escapes it."""
    app = Flask(__name__)
    ServerSession(app, csrf=None)

    @app.post("/")
    def put() -> str:
        flash(flask_request.get_json())
        flask_session["kept"] = {"of him": flask_request.get_json()}
        return ""

    @app.get("/")
    def show() -> str:
        (message,) = get_flashed_messages()
        assert message == flask_session["kept"]["of him"] == sent_by_him
        return render_template_string("{{ message }}{{ session.kept }}{{ message.markup }}", message=message)

    client = app.test_client()
    client.post("/", json=sent_by_him)
    page = client.get("/")
    assert page.status_code == 200
    assert "<script>" not in page.text
