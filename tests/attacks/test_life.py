"""Attacks on a session's life: dead ones brought back, ends undone or raced, deadlines moved, rows made for nothing."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import create_environ

from server_session import NotFreshError
from server_session._colour import drive
from server_session._tokens import Credential
from server_session.exceptions import SerializationError
from server_session.http.requests import AsgiRequest, WsgiRequest
from server_session.stores._base import MISSING, SessionStore
from server_session.stores._over import StoreOver
from server_session.testing import YieldingStore
from tests.asgi_client import Answer, call, scope_of
from tests.attacks.stage import (
    INTERFACES,
    Browser,
    Endpoint,
    Gate,
    Reply,
    Request,
    Site,
    meanwhile,
    timed_site,
    victim_at,
)
from tests.parts import ALL
from tests.visitors import Watched

both = pytest.mark.parametrize("interface", INTERFACES)

VISITORS = 1_000_000 if ALL else 2_000
DAY = 86400.0
MOMENTS = 20


# --- the application's endpoints


async def mine(request: Request) -> Any:
    """Return the ids of an owner's sessions."""
    return [session.id for session in await request.functions.sessions_of(request.body.decode() or "victim")]


async def end_all(request: Request) -> Any:
    return await request.functions.destroy_sessions_of(request.body.decode() or "victim")


async def end_others(request: Request) -> Any:
    return await request.functions.destroy_sessions_of("victim", except_current=request.carrier)


async def empty(request: Request) -> Any:
    """Log out by the mapping."""
    request.session.clear()


async def remember(request: Request) -> Any:
    await request.functions.log_in(request.carrier, "victim", {"user": "victim"})
    return await request.functions.renew_session(request.carrier, max_age=timedelta(days=30), persistent=True)


async def remember_longer(request: Request) -> Any:
    await request.functions.log_in(request.carrier, "victim", {"user": "victim"})
    return await request.functions.renew_session(
        request.carrier, max_age=timedelta(days=30), absolute_max_age=timedelta(days=90), persistent=True
    )


async def pay(request: Request) -> Any:
    """Do what needs the password again."""
    try:
        await request.functions.require_fresh(request.carrier, timedelta(minutes=5))
    except NotFreshError:
        return "not fresh"
    return "paid"


async def keep(request: Request) -> Any:
    """Write under a key that the visitor chooses."""
    try:
        return await request.functions.set_session_data(request.carrier, {request.body.decode(): 9e9})
    except SerializationError:
        return "refused"


async def password_again(request: Request) -> Any:
    return await request.functions.renew_session(request.carrier, authenticated=True)


# What a request of before may still do when the session's end has come.


async def late_read(request: Request) -> Any:
    return await request.functions.get_session_data(request.carrier)


async def late_set(request: Request) -> Any:
    return await request.functions.set_session_data(request.carrier, {"late": 1})


async def late_update(request: Request) -> Any:
    return await request.functions.update_session_data(request.carrier, lambda data: data.update(late=1))


async def late_in_place(request: Request) -> Any:
    return await request.functions.replace_session_data(request.carrier, {"user": "victim", "late": 1}, in_place=True)


async def late_pluck(request: Request) -> Any:
    return await request.functions.pluck_session_property(request.carrier, "note")


async def late_token(request: Request) -> Any:
    text = await request.functions.get_csrf_token(request.carrier)
    return await request.functions.validate_csrf_token(request.carrier, text)


async def late_renewal(request: Request) -> Any:
    return await request.functions.renew_session(request.carrier, data={"late": 1})


async def late_mapping(request: Request) -> Any:
    request.session["late"] = 1


async def late_nesting(request: Request) -> Any:
    request.session.setdefault("list", []).append("late")


async def late_user(request: Request) -> Any:
    request.session["user"] = "victim"


LATE: tuple[Endpoint, ...] = (
    *(late_read, late_set, late_update, late_in_place, late_pluck, late_token, late_renewal),
    *(late_mapping, late_nesting, late_user),
)
late_ones = pytest.mark.parametrize("late", LATE, ids=lambda late: late.__name__)

ENDPOINTS: dict[str, Endpoint] = {
    f"/{one.__name__}": one
    for one in (
        *(mine, end_all, end_others, empty, remember, remember_longer, pay, keep, password_again),
        *LATE,
    )
}


def site_of(interface: str, kind: str = "memory", directory: Path = Path(), **settings: Any) -> Site:
    return timed_site(interface, kind, directory, endpoints=dict(ENDPOINTS), **settings)


def is_anonymous(reply: Reply) -> bool:
    """Tell whether who got this answer saw no session, and got no cookie."""
    return reply.status == 200 and reply.said == {} and not reply.all("set-cookie")


def with_a_note(site: Site) -> Browser:
    victim = victim_at(site)
    victim.post("/write", body=b"mine")
    return victim


# How a session's cookie comes to its end; whether the session itself does.
ENDS: dict[str, tuple[Callable[[Browser], object], bool]] = {
    "log-out": (lambda victim: victim.post("/log_out"), True),
    "log-out by the mapping": (lambda victim: victim.post("/empty"), True),
    "renewal": (lambda victim: victim.post("/renew"), False),
    "log-in": (lambda victim: victim.post("/log_in"), False),
    "revocation": (lambda victim: Browser(victim.site).post("/end_all"), True),
    "idle time": (lambda victim: victim.site.clock.advance(1801), True),
    "deadline": (lambda victim: victim.site.clock.advance(31 * DAY), True),
}
every_end = pytest.mark.parametrize("end", ENDS)
OTHER_STORES = [("log-out", "file"), ("log-out", "sealed memory"), ("renewal", "sealed memory")]


# --- replay


@both
@pytest.mark.parametrize("end,kind", [*((end, "memory") for end in ENDS), *OTHER_STORES])
def test_a_stolen_cookie_replayed_after_the_end_opens_nothing(interface, end, kind, tmp_path):
    """stole a cookie, and replays it after log-out, renewal, a new log-in, the owner's revocation or expiry — it reads,
    plucks and writes nothing, at once, after the minute and days later."""
    site = site_of(interface, kind, tmp_path)
    victim = with_a_note(site)
    thief = Browser(site, victim.cookie)
    assert thief.get().said == {"user": "victim", "note": "mine"}
    ENDS[end][0](victim)
    for wait in (0, 30, 31, 2000, 3 * DAY):
        site.clock.advance(wait)
        assert is_anonymous(thief.get())
        assert site.post("/pluck", cookie=thief.cookie).said is None
        reply = site.post("/late_set", cookie=thief.cookie)
        if reply.cookie:
            assert site.send(cookie=reply.cookie).said == {"late": 1}
    assert "late" not in victim.get().said


async def polled(request: Request) -> Any:
    return (await request.functions.get_session_data(request.carrier, touch=False)).get("user")


async def asked_alive(request: Request) -> Any:
    return await request.functions.is_alive(request.carrier)


@both
@pytest.mark.parametrize("path, alive, gone", [("/polled", "victim", None), ("/asked_alive", True, False)])
def test_a_page_that_asks_by_itself_keeps_no_session_alive(interface, path, alive, gone):
    """sits down at a browser that was left open, hours ago, on a page that asks every five minutes — the session has
    expired as if nobody had asked, where the page's endpoint reads without a touch and loads no mapping."""
    site = timed_site(interface, endpoints={"/polled": polled, "/asked_alive": asked_alive})
    # Over WSGI the mapping asks the store when it is touched, and no sooner.
    site.app.autoload = lambda scope: scope["path"] != path
    victim = victim_at(site)
    for _ in range(5):
        site.clock.advance(300)
        assert victim.get(path).said == alive
    site.clock.advance(301)
    assert victim.get(path).said == gone
    assert is_anonymous(victim.get())


@both
def test_use_does_not_move_the_deadline(interface):
    """keeps a stolen session alive by using it every minute, in every way — at its deadline it ends all the same."""
    site = site_of(interface, max_age=100, absolute_max_age=1000)
    victim = with_a_note(site)
    paths = itertools.cycle(
        ("/whoami", "/write", "/count", "/renew", "/late_in_place", "/late_mapping", "/token", "/assign")
    )
    for _ in range(16):
        site.clock.advance(60)
        victim.post(next(paths))
        assert victim.get().said["user"] == "victim"
    site.clock.advance(41)
    assert is_anonymous(victim.get())


@both
def test_the_victim_ends_every_session_but_their_own(interface):
    """logged in with a stolen password on three devices — the victim's "log out all others" ends these three, by
    whatever cookie they came, and not the victim's."""
    site = site_of(interface)
    victim = victim_at(site)
    thieves = [victim_at(site) for _ in range(3)]
    thieves[1].post("/renew")
    stranger = Browser(site)
    stranger.post("/log_in", body=b"stranger")
    assert victim.post("/end_others").said == 3
    assert all(is_anonymous(thief.get()) for thief in thieves)
    assert victim.get().said == {"user": "victim"}
    assert stranger.get().said == {"user": "stranger"}


@both
def test_a_request_that_is_opened_again_after_the_log_out_shows_nobody(interface):
    """has a socket each of whose events opens the handshake's request anew, over the victim's log-out elsewhere — the
    events after it see nobody, by the mapping and by the functions."""
    site = site_of(interface)
    victim = victim_at(site)
    cookie = victim.cookie or ""
    if interface == "asgi":
        given: Any = scope_of(cookie=cookie)
        request: Any = AsgiRequest.of(given)
    else:
        given = create_environ(headers={"Cookie": cookie})
        request = WsgiRequest.of(given)
    seen = []
    for event in range(3):
        exchange = site.sessions.exchange(request)
        exchange.serve()
        mapping = drive(exchange.load())
        seen.append((dict(mapping), site.sessions.sync.get_session_data(given)))
        exchange.leave()
        if event == 1:
            victim.post("/log_out")
    mine = {"user": "victim"}
    assert seen == [(mine, mine), (mine, mine), ({}, {})]


@both
def test_a_replayed_log_out_ends_nothing_twice(interface):
    """replays the victim's log-out, after the victim has logged in again — the new session lives."""
    site = site_of(interface)
    victim = victim_at(site)
    old = victim.cookie
    assert victim.post("/log_out").said is True
    victim.post("/log_in")
    for wait in (0, 30, 31, 100):
        site.clock.advance(wait)
        assert site.post("/log_out", cookie=old).said is False
        assert victim.get().said == {"user": "victim"}


@both
@pytest.mark.parametrize("path", ["/log_out", "/empty"])
@pytest.mark.parametrize("end", ["log-out", "log-in", "renewal", "revocation"])
def test_a_log_out_with_a_stale_cookie_does_not_log_out_the_new_session(interface, end, path):
    """has the victim's browser send a log-out with the cookie of a former session, which has ended or been renewed —
    the session that came after it lives, and within the minute no answer takes its cookie away."""
    site = site_of(interface)
    victim = victim_at(site)
    stale = victim.cookie
    ENDS[end][0](victim)
    if end == "renewal":
        # With the cookie just swapped out this would be the same browser's log-out; see the attacks on cookies.
        site.clock.advance(61)
    elif end != "log-in":
        victim.post("/log_in")
    reply = site.post(path, cookie=stale)
    assert victim.get().said == {"user": "victim"}
    assert end == "renewal" or not reply.all("set-cookie")
    assert site.send("POST", "/mine").said == [victim.credential[:24]]
    victim.post(path)
    assert is_anonymous(victim.get())


# --- ends undone by slow requests


def held(late: Endpoint, gate: Gate, *, looks: bool = True) -> Endpoint:
    """Return an endpoint that waits at the gate before it does this; `looks` is whether it has seen the session."""

    async def slow(request: Request) -> Any:
        if looks:
            assert (await request.functions.get_session_data(request.carrier))["user"] == "victim"
        gate.wait()
        return await late(request)

    return slow


def works_where_nothing_ends(interface: str, late: Endpoint) -> bool:
    """Tell whether the same slow request, with no end meanwhile, does its work."""
    site, gate = site_of(interface), Gate()
    site.endpoints["/slow"] = held(late, gate)
    victim = with_a_note(site)
    with gate.holding(lambda: site.post("/slow", cookie=victim.cookie)) as slow:
        victim.get()
    reply = slow.result()
    data = site.send(cookie=reply.cookie or victim.cookie).said
    if late in (late_read, late_user):
        return bool(data == {"user": "victim", "note": "mine"})
    if late in (late_pluck, late_token):
        return bool(reply.said)
    return "late" in data or "list" in data


@both
@every_end
@late_ones
def test_no_end_is_undone_by_a_slow_request_of_before(interface, end, late):
    """holds a request open over the session's end (log-out, renewal, new log-in, revocation, expiry), and then lets it
    read, write by every function or by the mapping, renew or ask for a token — what was ended stays so, what came after
    it is not written to, and the answer sets no cookie."""
    assert works_where_nothing_ends(interface, late)
    site, gate = site_of(interface), Gate()
    site.endpoints["/slow"] = held(late, gate)
    victim = with_a_note(site)
    old = victim.cookie
    with gate.holding(lambda: site.post("/slow", cookie=old)) as slow:
        ENDS[end][0](victim)
        before = site.events.count("created")
    reply = slow.result()
    assert reply.status == 200
    assert reply.said in (None, False, {})
    assert not reply.all("set-cookie")
    assert is_anonymous(site.send(cookie=old))
    assert site.events.count("created") == before
    assert len(site.send("POST", "/mine").said) == (0 if ENDS[end][1] else 1)
    if ENDS[end][1]:
        assert is_anonymous(victim.get())
    else:
        assert victim.get().said == {"user": "victim"} | ({"note": "mine"} if end == "renewal" else {})


@both
@pytest.mark.parametrize("end", ["log-out", "log-out by the mapping", "renewal", "log-in", "revocation"])
@late_ones
def test_no_end_is_undone_by_a_slow_request_that_never_looked(interface, end, late):
    """holds a request open that writes blindly, without having read the session — within the minute it is dropped like
    the others; what means log-in founds a session of its own, with nothing of before."""
    site, gate = site_of(interface), Gate()
    site.endpoints["/slow"] = held(late, gate, looks=False)
    victim = with_a_note(site)
    old = victim.cookie
    with gate.holding(lambda: site.post("/slow", cookie=old)) as slow:
        ENDS[end][0](victim)
    reply = slow.result()
    assert is_anonymous(site.send(cookie=old))
    if reply.all("set-cookie"):
        assert late in (late_renewal, late_user)
        assert interface == "wsgi"
        assert site.send(cookie=reply.cookie).said == ({"late": 1} if late is late_renewal else {"user": "victim"})
    else:
        assert reply.said in (None, False, {})
    assert len(site.send("POST", "/mine").said) == (0 if ENDS[end][1] else 1)
    if not ENDS[end][1]:
        assert victim.get().said == {"user": "victim"} | ({"note": "mine"} if end == "renewal" else {})


@both
@late_ones
@pytest.mark.parametrize("way", ["/log_in", "/replace", "/renew", "/assign", "/clear"])
def test_a_slow_request_of_before_does_not_push_out_the_log_in(interface, way, late):
    """holds an anonymous request open over the log-in of the same browser, and then lets it write — its answer, which
    comes last, sets no cookie; nothing of it is in the new session, and the victim is logged in."""
    site, gate = site_of(interface), Gate()

    async def slow(request: Request) -> Any:
        assert await request.functions.get_session_data(request.carrier) == {"note": "mine"}
        gate.wait()
        return await late(request)

    site.endpoints["/slow"] = slow
    victim = Browser(site)
    victim.post("/write", body=b"mine")
    old = Browser(site, victim.cookie)
    with gate.holding(lambda: old.post("/slow")) as request:
        victim.post(way, body=b"victim")
        logged_in = victim.get().said
        assert logged_in["user"] == "victim"
    assert not request.result().all("set-cookie")
    assert request.result().said in (None, False, {})
    assert victim.get().said == logged_in


# --- races, at every moment


class Interrupted(Watched):
    """A store where something else happens just before one of a request's calls."""

    def __init__(self, store: SessionStore) -> None:
        super().__init__(store)
        self._rest = 0
        self._send: Callable[[], Any] | None = None

    def interrupt(self, moment: int, send: Callable[[], Any]) -> None:
        """Send this before the call of this number from now, counted from 0."""
        self._rest, self._send = moment, send

    def is_past(self) -> bool:
        """Send now what has not been sent yet; return whether it had not."""
        send, self._send = self._send, None
        if send is not None:
            send()
        return send is not None

    def _note(self, name: str) -> None:
        super()._note(name)
        if self._rest == 0 and self._send is not None:
            send, self._send = self._send, None
            meanwhile(send)
        self._rest -= 1


def at_every_moment(
    interface: str,
    prepare: Callable[[Site], Any],
    first: Callable[[Any], Any],
    second: Callable[[Any], Any],
    **settings: Any,
) -> Iterator[tuple[Site, Any]]:
    """Race two requests: the second is served whole between any two calls to the store that the first makes.

    For each such moment, and last for the one when the first is done, yields a site where it was so, and what
    `prepare` returned there.
    """
    for moment in range(MOMENTS):
        site = site_of(interface, wrap=Interrupted, **settings)
        store: Any = site.sessions.store
        prepared = prepare(site)
        store.interrupt(moment, lambda prepared=prepared: second(prepared))
        first(prepared)
        is_last = store.is_past()
        yield site, prepared
        if is_last:
            assert moment > 0
            return
    pytest.fail("the first request made no end of calls")


class Two:
    """One browser, of which two requests are under way."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.victim = with_a_note(site)
        self.cookie = self.victim.cookie
        self.replies: dict[str, Reply] = {}

    def send(self, path: str) -> None:
        self.replies[path] = self.site.post(path, cookie=self.cookie)


def races(interface: str, one: str, other: str) -> Iterator[tuple[Site, Two]]:
    """Race two requests of one browser, each at every moment of the other."""
    for first, second in ((one, other), (other, one)):

        def send_first(two: Two, path: str = first) -> None:
            two.send(path)

        def send_second(two: Two, path: str = second) -> None:
            two.send(path)

        yield from at_every_moment(interface, Two, send_first, send_second)


@both
@pytest.mark.parametrize("log_out", ["/log_out", "/empty"])
@late_ones
def test_no_write_that_races_a_log_out_undoes_it(interface, late, log_out):
    """sends a write at every moment of a log-out, and a log-out at every moment of a write — when both are done no
    cookie that there ever was opens the session, and the owner has none; a renewal with data that never saw it alive
    founds one of its own, with that data alone."""
    path = f"/{late.__name__}"
    own = {late_renewal: {"late": 1}, late_user: {"user": "victim"}}.get(late, {})
    for site, two in races(interface, log_out, path):
        assert is_anonymous(site.send(cookie=two.cookie))
        founded = two.replies[path].cookie
        assert not founded or site.send(cookie=founded).said in ({}, own)
        assert site.send("POST", "/mine").said == []


@both
@pytest.mark.parametrize("late", [late_set, late_update, late_in_place, late_mapping], ids=lambda late: late.__name__)
def test_a_write_that_races_a_renewal_is_whole_or_said_to_be_lost(interface, late):
    """sends a write at every moment of a renewal, and a renewal at every moment of a write — the victim stays logged in
    with the new cookie alone, and the write is in the session or was answered False and signalled."""
    path = f"/{late.__name__}"
    for site, two in races(interface, "/renew", path):
        renewed = two.replies["/renew"]
        assert renewed.said is True
        data = site.send(cookie=renewed.cookie).said
        assert data["user"] == "victim"
        assert is_anonymous(site.send(cookie=two.cookie))
        assert not two.replies[path].all("set-cookie")
        assert ("late" in data) is ("write_dropped" not in site.events)
        assert late is late_mapping or two.replies[path].said is ("late" in data)


@both
def test_two_renewals_at_once_leave_one_cookie_that_holds(interface):
    """sends a renewal at every moment of another — one holds, the other says False and sets no cookie, so the browser
    is logged in whichever answer comes last."""
    for site, two in races(interface, "/renew", "/renew?again"):
        said = [reply.said for reply in two.replies.values()]
        assert sorted(said) == [False, True]
        (cookie,) = [reply.cookie for reply in two.replies.values() if reply.cookie]
        assert site.send(cookie=cookie).said["user"] == "victim"
        assert is_anonymous(site.send(cookie=two.cookie))


@both
@late_ones
def test_a_write_that_races_a_log_in_is_not_in_what_it_founds(interface, late):
    """sends a write of before at every moment of the log-in, and the log-in at every moment of the write — the new
    session holds what the log-in gave it and nothing else, and the old one has ended."""
    path = f"/{late.__name__}"
    for site, two in races(interface, "/log_in", path):
        cookie = two.replies["/log_in"].cookie
        assert site.send(cookie=cookie).said == {"user": "victim"}
        assert is_anonymous(site.send(cookie=two.cookie))
        assert site.send("POST", "/mine").said == [cookie[8:32]]


@both
def test_a_log_in_that_races_its_owners_revocation_is_ended_or_listed(interface):
    """logs in with a stolen password at every moment of the victim's "log out everywhere", and the reverse — the log-in
    is ended too, or is on the list to be ended next; none lives that is not listed."""
    for site, two in races(interface, "/log_in", "/end_all"):
        cookie = two.replies["/log_in"].cookie
        lives = cookie is not None and site.send(cookie=cookie).said == {"user": "victim"}
        assert site.send("POST", "/mine").said == ([cookie[8:32]] if lives else [])
        assert is_anonymous(site.send(cookie=two.cookie))
        site.post("/end_all")
        assert not cookie or is_anonymous(site.send(cookie=cookie))


@both
def test_a_voucher_that_is_plucked_twice_at_once_is_given_once(interface):
    """plucks what is there once (a voucher, a one-time code) at every moment of another pluck — one of the two gets
    it."""
    for site, two in races(interface, "/pluck", "/late_pluck"):
        assert sorted(str(reply.said) for reply in two.replies.values()) == ["None", "mine"]
        assert site.send(cookie=two.cookie).said == {"user": "victim"}


@both
def test_a_counter_of_tries_that_is_raced_counts_each_try(interface):
    """guesses a password twice at once, so that the counter of tries counts one — it counts both, at every moment."""
    for site, two in races(interface, "/count", "/count"):
        assert site.send(cookie=two.cookie).said["n"] == 2


def crowded_site(interface: str, **settings: Any) -> Site:
    """Return a site where requests that are sent at once overlap: over ASGI at each call to the store."""
    wrap = YieldingStore if interface == "asgi" else Watched
    return site_of(interface, wrap=wrap, **settings)


def at_once(site: Site, requests: list[tuple[str, str | None]]) -> list[Reply]:
    """Send many requests, each a path and a cookie, at once: on one loop over ASGI, in threads over WSGI."""
    if site.interface == "wsgi":
        with ThreadPoolExecutor(len(requests)) as threads:
            return list(threads.map(lambda request: site.send(path=request[0], cookie=request[1]), requests))

    async def gather() -> list[Answer]:
        return await asyncio.gather(*(call(site.app, scope_of(path, cookie)) for path, cookie in requests))

    return [
        Reply(answer.status, [(name.decode(), value.decode()) for name, value in answer.headers], answer.body)
        for answer in asyncio.run(gather())
    ]


@both
def test_a_crowd_of_requests_around_a_log_out_undoes_nothing(interface):
    """sends forty reads, writes and renewals at once, and the log-out among them — no cookie that any of them was given
    opens the session, and the owner has none."""
    site = crowded_site(interface)
    victim = with_a_note(site)
    paths = [f"/{late.__name__}" for late in LATE if late not in (late_renewal, late_user)] + ["/renew", "/token"]
    crowd = [(path, victim.cookie) for path in paths * 4]
    replies = at_once(site, [*crowd[:20], ("/log_out", victim.cookie), *crowd[20:]])
    assert {reply.status for reply in replies} == {200}
    assert all(is_anonymous(site.send(cookie=reply.cookie or victim.cookie)) for reply in replies)
    assert site.send(path="/mine").said == []
    # Without the log-out the same crowd leaves the victim logged in.
    victim = with_a_note(site)
    replies = at_once(site, [(path, victim.cookie) for path in paths])
    cookie = next(reply.cookie for reply in replies if reply.cookie)
    assert site.send(cookie=cookie).said["user"] == "victim"


# --- how many sessions an owner has


def living(site: Site, cookies: list[str | None]) -> int:
    return sum(site.send(cookie=cookie).said == {"user": "victim"} for cookie in cookies if cookie)


@both
def test_a_log_in_inside_another_does_not_exceed_max_sessions(interface):
    """logs in at every moment of another log-in, where an owner may have two sessions and has one — at most two live
    afterwards."""

    class Both:
        def __init__(self, site: Site) -> None:
            self.site = site
            self.cookies = [site.post("/log_in").cookie]
            assert living(site, self.cookies) == 1

        def log_in(self) -> None:
            self.cookies.append(self.site.post("/log_in").cookie)

    for site, both_of in at_every_moment(interface, Both, Both.log_in, Both.log_in, max_sessions=2):
        assert len(both_of.cookies) == 3
        assert 1 <= living(site, both_of.cookies) <= 2
        assert len(site.send("POST", "/mine").said) == living(site, both_of.cookies)


@both
def test_many_log_ins_at_once_do_not_exceed_max_sessions(interface):
    """sends twelve log-ins at once, where an owner may have three sessions — three live, and nobody is told of more."""
    site = crowded_site(interface, max_sessions=3)
    replies = at_once(site, [("/log_in", None)] * 12)
    cookies = [reply.cookie for reply in replies if reply.cookie]
    assert [reply.status for reply in replies] == [200] * 12
    assert living(site, cookies) == 3
    # Who got none was among the oldest before it was founded.
    assert {reply.said for reply in replies if not reply.cookie} <= {False}
    assert len(site.send(path="/mine").said) == 3


# --- "remember me", and proof that is fresh


@both
@pytest.mark.parametrize("path,days", [("/remember", 30), ("/remember_longer", 90)])
@pytest.mark.parametrize(
    "use",
    ["/whoami", "/late_set", "/late_update", "/late_in_place", "/late_mapping", "/renew", "/keep", "/password_again"],
)
def test_a_remembered_session_is_not_prolonged_by_use(interface, path, days, use):
    """uses a remembered session day by day, by reads, blind writes and renewals, and by keys named like its lifetime —
    it ends on the day that was set when it was founded, and the cookie's own age says so."""
    site = site_of(interface)
    victim = Browser(site)
    assert victim.post(path).said is True
    bodies = itertools.cycle(
        (b"absolute_max_age", b"max_age", b"persistent", b"life", b"created", b"\x00life", b"\x00created")
    )
    for day in range(1, days):
        site.clock.advance(DAY)
        reply = victim.post(use, body=next(bodies) if use == "/keep" else b"")
        for header in reply.all("set-cookie"):
            age = int(header.partition("Max-Age=")[2].partition(";")[0])
            assert age <= (days - day) * DAY + 1
    assert victim.get().said["user"] == "victim"
    site.clock.advance(DAY - 1)
    assert victim.post(use).status == 200
    assert victim.get().said["user"] == "victim"
    site.clock.advance(2)
    assert is_anonymous(victim.get())


@both
def test_a_session_that_nobody_remembered_is_not_made_so_by_data(interface):
    """writes keys named like the core's own, with and without its prefix, to make a session live longer — those with
    the prefix are refused, the others are data, and the session ends when it should."""
    site = site_of(interface, max_age=100)
    victim = victim_at(site)
    for name in ("life", "created", "stamp", "authenticated", "max_age", "idle", "digest", "owner", "ended"):
        assert victim.post("/keep", body=name.encode()).said is True
        assert victim.post("/keep", body=b"\x00" + name.encode()).said == "refused"
    assert victim.get().said["life"] == 9e9
    site.clock.advance(101)
    assert is_anonymous(victim.get())


@both
@pytest.mark.parametrize("way", ["/log_in", "/replace", "/clear"])
def test_who_logs_in_after_a_remembered_visitor_is_not_remembered(interface, way):
    """logs in on the browser of somebody who is remembered — the new session has the ordinary idle time, and its cookie
    goes when the browser closes."""
    site = site_of(interface)
    browser = Browser(site)
    reply = browser.post("/remember")
    assert any("Max-Age=" in header for header in reply.all("set-cookie"))
    reply = browser.post(way, body=b"next")
    assert not any("Max-Age=" in header for header in reply.all("set-cookie"))
    site.clock.advance(1799)
    assert browser.get().said == {"user": "next"}
    site.clock.advance(1801)
    assert is_anonymous(browser.get())


@both
@pytest.mark.parametrize(
    "trick", ["/keep", "/renew", "/late_renewal", "/late_in_place", "/late_user", "/late_set", "/write", "/token"]
)
def test_nothing_but_proof_makes_a_log_in_fresh(interface, trick):
    """does, over a log-in of ten minutes ago, what looks like proof: writes keys named like the mark, renews without
    proof, writes the same user once more — what asks for the password again still does."""
    site = site_of(interface)
    victim = victim_at(site)
    assert victim.post("/pay").said == "paid"
    site.clock.advance(600)
    for body in (b"authenticated", b"\x00authenticated", b"AUTHENTICATED", b"\x00created", b"created", b""):
        reply = victim.post(trick, body=b"victim" if trick == "/renew" else body or b"x")
        assert reply.status == 200
        assert victim.post("/pay").said == "not fresh"
    assert victim.post("/password_again").said is True
    assert victim.post("/pay").said == "paid"


async def assigned(request: Request, data: dict[str, Any]) -> None:
    request.session.update(data)


async def deleted(request: Request, _: Any) -> None:
    del request.session["user"]


# Ways to write another user over a session, or none.
BECOMING: dict[str, Callable[[Request, dict[str, Any]], Awaitable[Any]]] = {
    "set": lambda request, data: request.functions.set_session_data(request.carrier, data),
    "update": lambda request, data: request.functions.update_session_data(
        request.carrier, lambda now: now.update(data)
    ),
    "delete": lambda request, _: request.functions.update_session_data(
        request.carrier, lambda now: now.pop("user") and None
    ),
    "pluck": lambda request, _: request.functions.pluck_session_property(request.carrier, "user"),
    "replace": lambda request, _: request.functions.replace_session_data(request.carrier, {"role": "user"}),
    "replace in place": lambda request, data: request.functions.replace_session_data(
        request.carrier, data, in_place=True
    ),
    "renew": lambda request, data: request.functions.renew_session(request.carrier, data=data),
    "mapping": assigned,
    "delete of the mapping": deleted,
}


@both
@pytest.mark.parametrize("user", ["mallory", None])
@pytest.mark.parametrize("way", BECOMING)
def test_whoever_is_written_over_a_log_in_has_proved_nothing(interface, way, user):
    """has another user, or none, written over a log-in of a moment ago, by any function or the mapping — what asks for
    the password again does so, unless the mapping's write was a log-in itself."""

    async def become(request: Request) -> Any:
        return await BECOMING[way](request, {"user": user})

    site = timed_site(interface, endpoints={"/become": become, "/pay": pay})
    victim = victim_at(site)
    assert victim.post("/pay").said == "paid"
    victim.post("/become")
    is_log_in = way == "mapping" and user is not None
    assert victim.post("/pay").said == ("paid" if is_log_in else "not fresh")


@both
def test_who_never_logged_in_is_not_fresh(interface):
    """asks for what needs the password again without a session, with an anonymous one, and with the cookie of an ended
    log-in — refused each time, and no session is made."""
    site = site_of(interface)
    anonymous, gone, nobody = Browser(site), victim_at(site), Browser(site)
    anonymous.post("/write", body=b"x")
    stolen = gone.cookie
    gone.post("/log_out")
    for cookie in (None, anonymous.cookie, stolen, f"session={'x' * 64}"):
        reply = site.post("/pay", cookie=cookie)
        assert reply.said == "not fresh"
        assert not reply.all("set-cookie")
    nobody.post("/log_in")
    assert nobody.post("/pay").said == "paid"


# --- more sessions than there may be


@both
def test_no_list_of_sessions_grows_for_ever(interface):
    """logs in again and again, and forgets each cookie, to make every log-in of that owner dearer than the last — the
    oldest sessions end where there are more than about 1,000."""
    site = site_of(interface)
    first = victim_at(site)
    for _ in range(1_600):
        site.clock.advance(1)
        Browser(site).post("/log_in")
    assert len(Browser(site).get("/mine").said) < 1_300
    assert is_anonymous(first.get())


class HangingUp(StoreOver):
    """A store that hears, where a session is to be ended for a log-in, that the client has gone."""

    client_goes = False

    async def set(self, key: str, fields: Any, *rest: Any) -> Any:
        if self.client_goes and "user" not in fields:
            raise asyncio.CancelledError
        return await super().set(key, fields, *rest)


def test_who_hangs_up_in_mid_log_in_has_one_session_too_many_and_no_second():
    """hangs up twice in the middle of a log-in that takes a session's place, to have more than max_sessions — one more
    lives, until the next log-in ends the oldest (ASGI)."""
    stores: list[HangingUp] = []

    def wrap(store: SessionStore) -> SessionStore:
        stores.append(HangingUp(store))
        return stores[0]

    site = timed_site("asgi", wrap=wrap, endpoints=dict(ENDPOINTS), max_sessions=2)
    victim, other = victim_at(site), victim_at(site)
    for _ in range(2):
        stores[0].client_goes = True
        with suppress(asyncio.CancelledError):
            victim.post("/log_in")
        stores[0].client_goes = False
        assert len(other.get("/mine").said) == 3
    assert Browser(site).post("/log_in").said is True
    assert len(other.get("/mine").said) == 2


# --- rows for nothing


def anonymous_visits(site: Site, count: int) -> int:
    """Send many visitors without a cookie; return how many Set-Cookie headers they got."""
    paths = ("/whoami", "/pluck", "/log_out", "/validate")
    if site.interface == "wsgi":
        return sum(len(site.send(path=paths[n % 4]).all("set-cookie")) for n in range(count))

    async def all_of_them() -> int:
        return sum([len((await call(site.app, scope_of(paths[n % 4]))).all("set-cookie")) for n in range(count)])

    return asyncio.run(all_of_them())


@both
def test_anonymous_visitors_by_the_million_leave_no_row(interface):
    """sends a million visitors without a cookie who read, pluck, log out and validate (2,000 in each check) — no call
    to the store, no cookie, no row."""
    store = Watched()
    site = Site(interface, ENDPOINTS, session_store=store)
    assert anonymous_visits(site, VISITORS) == 0
    assert store.calls == []
    assert store.store.stats().sessions == 0
    assert site.events == []
    assert site.post("/write", body=b"x").cookie
    assert store.calls == ["set"]
    assert store.store.stats().sessions == 1


@both
def test_a_thousand_forged_cookies_make_no_row(interface):
    """sends a thousand well-formed cookies that nobody issued, to endpoints that read, pluck, log out, validate and
    renew — one call each at the most, and no row."""
    store = Watched()
    site = Site(interface, ENDPOINTS, session_store=store)
    paths = ("/whoami", "/pluck", "/log_out", "/validate", "/renew")
    for number in range(1000):
        reply = site.post(paths[number % 5], cookie=f"session={Credential.found(store.id()).value}")
        assert reply.status == 200
        assert not reply.cookie
    assert 0 < len(store.calls) <= 1000
    assert store.store.stats().sessions == 0
    assert set(site.events) == {"unknown"}
    victim = victim_at(site)
    assert victim.get().said == {"user": "victim"}
    # The log-in, and the list of its owner's.
    assert store.store.stats().sessions == 2


@both
@pytest.mark.parametrize("is_checked", [True, False])
@pytest.mark.parametrize("path", ["/write", "/log_in", "/replace", "/token", "/clear"])
def test_forged_posts_of_other_sites_make_no_row(interface, path, is_checked):
    """has fifty browsers send a cross-site POST, with which no cookie comes, to an application with the check of
    forged requests and to one without — refused, no cookie that would replace a log-in, and no row."""
    store = Watched()
    settings: dict[str, Any] = {} if is_checked else {"csrf": None}
    site = Site(interface, ENDPOINTS, session_store=store, **settings)
    for header in (("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")):
        for _ in range(25):
            reply = site.send("POST", path, header, body=b"x")
            assert reply.status == 403
            assert not reply.all("set-cookie")
    assert store.store.stats().sessions == 0
    assert bool(site.seen) is not is_checked
    assert site.post(path, body=b"x").cookie


@both
@pytest.mark.parametrize(
    "end,kind",
    [
        *((end, "memory") for end in ("log-out", "log-out by the mapping", "revocation", "log-in")),
        *(("log-out", kind) for kind in ("file", "sealed memory")),
    ],
)
def test_the_mark_of_an_ended_session_is_no_session(interface, end, kind, tmp_path):
    """presents the cookie of an ended session, and others on its selector, while its mark is there — they read as
    nobody, are not listed and not fresh; after the minute the mark is gone from the store."""
    site = site_of(interface, kind, tmp_path)
    victim = with_a_note(site)
    old = victim.credential
    ENDS[end][0](victim)
    store = site.sessions.policy.store
    for wait in (0, 59):
        site.clock.advance(wait)
        mark = drive(store.get(old[:24], {}, False))
        assert not any("note" in name or "user" in name or "digest" in name for name in mark)
        for value in (old, old[:24] + "A" * 40, old[:24] + Credential.found(store.id()).verifier):
            assert is_anonymous(site.send(cookie=f"session={value}"))
            assert site.post("/pay", cookie=f"session={value}").said == "not fresh"
            assert site.post("/pluck", cookie=f"session={value}").said is None
        assert old[:24] not in site.send("POST", "/mine").said
    site.clock.advance(2)
    assert drive(store.get(old[:24], {}, False)) is MISSING
    assert is_anonymous(site.send(cookie=f"session={old}"))
