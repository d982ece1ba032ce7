"""What can be done with the cookie: ids that were chosen, guessed, kept, tossed or forged, and what hides in one."""

import logging
import secrets
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server_session import CSRF, ConfigurationError, CookieHandler
from server_session._colour import drive
from server_session.exceptions import SerializationError
from server_session.stores._base import APPLIED, Outcome, SessionStore
from server_session.stores.file import FileSessionStore
from server_session.stores.memcached import MemcachedSessionStore
from server_session.stores.redis import RedisSessionStore
from server_session.stores.sql import SQLSessionStore
from tests.attacks.stage import HOST, INTERFACES, Browser, Reply, Request, Site, timed_site, victim_at
from tests.visitors import Watched

both = pytest.mark.parametrize("interface", INTERFACES)

ORIGIN = f"https://{HOST}"
WAYS_TO_LOG_IN = ("/log_in", "/replace", "/renew", "/set_and_renew", "/assign", "/clear")
WRITES = ("/write", "/count", "/pluck", "/assign", "/clear", "/log_in", "/replace", "/renew", "/token")
MINUTES = pytest.mark.parametrize("later", [1, 59, 61, 600])


class Spy(Watched):
    """A store that keeps a list of the keys that it was asked for, told to make, and that were written."""

    def __init__(self, store: SessionStore | None = None) -> None:
        super().__init__(store)
        self.asked: list[str] = []
        self.made: list[str] = []
        self.written: list[str] = []

    async def get(self, key: str, *more: Any) -> Any:
        self.asked.append(key)
        return await super().get(key, *more)

    async def set(self, key: str, fields: Any, lifetime: Any, expect: Any = None) -> Any:
        self.asked.append(key)
        if expect is None:
            self.made.append(key)
        return self._wrote(key, await super().set(key, fields, lifetime, expect))

    async def merge(self, key: str, *more: Any) -> Any:
        self.asked.append(key)
        return self._wrote(key, await super().merge(key, *more))

    def _wrote(self, key: str, outcome: Outcome) -> Outcome:
        if outcome is APPLIED:
            self.written.append(key)
        return outcome


async def set_and_renew(request: Request) -> Any:
    await request.functions.set_session_data(request.carrier, {"user": request.body.decode() or "victim"})
    return await request.functions.renew_session(request.carrier)


async def sign_in(request: Request) -> Any:
    name = request.body.decode()
    return await request.functions.log_in(request.carrier, name, {"user": name})


async def mine(request: Request) -> Any:
    return [session.id for session in await request.functions.sessions_of(request.body.decode())]


async def end_all(request: Request) -> Any:
    return await request.functions.destroy_sessions_of(request.body.decode())


async def keep(request: Request) -> Any:
    text = request.body.decode("utf-8", "surrogatepass")
    try:
        return await request.functions.set_session_data(request.carrier, {text: text})
    except SerializationError:
        return "refused"


ENDPOINTS = {f"/{one.__name__}": one for one in (set_and_renew, sign_in, mine, end_all, keep)}


def site_of(interface: str, **settings: Any) -> Site:
    return timed_site(interface, endpoints=ENDPOINTS, **settings)


def has_nothing(reply: Reply) -> bool:
    """Tell whether who got this answer saw no session, and got no cookie."""
    return reply.status == 200 and reply.said == {} and not reply.all("set-cookie")


def junk_on(victim: Browser) -> str:
    return f"session={victim.credential[:24]}{'A' * 40}"


# --- fixation


@both
@pytest.mark.parametrize("way", WAYS_TO_LOG_IN)
def test_a_planted_cookie_is_not_shared_with_who_logs_in_over_it(interface, way):
    """plants the cookie of an anonymous session in the victim's browser, and waits for the log-in, by every way to log
    in — the log-in has a cookie of its own; the planted one reads and writes nothing, then and later."""
    site = site_of(interface)
    attacker = Browser(site)
    attacker.post("/write", body=b"planted")
    planted = attacker.cookie
    victim = Browser(site, planted)
    assert victim.get().said == {"note": "planted"}
    victim.post(way, body=b"victim")
    assert victim.get().said["user"] == "victim"
    assert victim.credential[24:] not in attacker.credential
    for wait in (0, 61, 600):
        site.clock.advance(wait)
        assert has_nothing(site.send(cookie=planted))
        site.post("/write", cookie=planted, body=b"evil")
        assert victim.get().said.get("note") != "evil"
        assert victim.get().said["user"] == "victim"


@both
@pytest.mark.parametrize("way", WAYS_TO_LOG_IN)
def test_an_attackers_own_log_in_that_was_planted_does_not_share_the_victims(interface, way):
    """plants the cookie of their own log-in, so that the victim logs in over it — the two are apart: the attacker's
    cookie opens nothing any more, and the victim is who they said."""
    site = site_of(interface)
    attacker = Browser(site)
    attacker.post("/log_in", body=b"attacker")
    victim = Browser(site, attacker.cookie)
    assert victim.get().said == {"user": "attacker"}
    victim.post(way, body=b"victim")
    assert victim.get().said["user"] == "victim"
    assert has_nothing(attacker.get())
    site.clock.advance(61)
    assert has_nothing(attacker.get())


@both
@pytest.mark.parametrize("way", WAYS_TO_LOG_IN)
@pytest.mark.parametrize("ended_by", ["/log_out", "/end_all", "idle time"])
def test_a_planted_cookie_whose_session_has_ended_comes_to_no_new_life(interface, way, ended_by):
    """plants the cookie of a session that has ended (log-out, revocation, expiry), and waits for the log-in — nothing
    of that cookie is in the new one, and it stays dead."""
    site = site_of(interface)
    attacker = Browser(site)
    attacker.post("/log_in", body=b"attacker")
    planted = attacker.cookie
    if ended_by == "idle time":
        site.clock.advance(1801)
    else:
        attacker.post(ended_by, body=b"attacker")
    victim = Browser(site, planted)
    victim.post(way, body=b"victim")
    if way == "/set_and_renew" and ended_by != "idle time":
        # Within the minute such a write is one that came late: it is dropped, and no log-in.
        assert victim.received == []
        site.clock.advance(61)
        victim.post(way, body=b"victim")
    assert victim.get().said["user"] == "victim"
    assert victim.credential[:24] != planted[8:32]
    assert victim.credential[24:] != planted[32:]
    assert has_nothing(site.send(cookie=planted))


# --- a verifier that does not hold


@both
def test_a_known_selector_with_a_junk_verifier_reads_nothing(interface):
    """knows a session's selector (from a list, a log, a backup) and makes up the verifier — they see nothing."""
    site = site_of(interface)
    victim = victim_at(site)
    assert site.send(cookie=victim.cookie).said == {"user": "victim"}
    for verifier in ("A" * 40, "_" * 40, secrets.token_urlsafe(30), victim.credential[24:][::-1]):
        assert has_nothing(site.send(cookie=f"session={victim.credential[:24]}{verifier}"))
    assert site.events.count("refused") == 4


@both
def test_a_cookie_that_is_wrong_in_one_character_opens_nothing(interface):
    """changes each single character of a good cookie — none of the sixty-four others opens it."""
    site = site_of(interface)
    victim = victim_at(site)
    value = victim.credential
    for at, sign in enumerate(value):
        other = "B" if sign == "A" else "A"
        assert has_nothing(site.send(cookie=f"session={value[:at]}{other}{value[at + 1 :]}"))
        swapped = value[:at] + sign.swapcase() + value[at + 1 :]
        assert swapped == value or has_nothing(site.send(cookie=f"session={swapped}"))
    assert victim.get().said == {"user": "victim"}


@both
@pytest.mark.parametrize("path", [*WRITES, "/log_out"])
def test_a_known_selector_with_a_junk_verifier_writes_nothing(interface, path):
    """writes, logs in and logs out over a session whose selector alone they know — the victim's stays as it was; what
    they get is a session of their own."""
    site = site_of(interface)
    victim = victim_at(site)
    victim.post("/write", body=b"mine")
    attacker = Browser(site, junk_on(victim))
    attacker.post(path, body=b"evil")
    assert victim.get().said == {"user": "victim", "note": "mine"}
    if attacker.received:
        assert attacker.credential[:24] != victim.credential[:24]
        assert "mine" not in str(attacker.get().said)
    else:
        assert path in ("/pluck", "/log_out")


@both
@pytest.mark.parametrize("path", ["/whoami", "/write", "/pluck", "/token", "/log_out"])
def test_a_known_selector_with_a_junk_verifier_keeps_nothing_alive(interface, path):
    """asks again and again with a junk verifier, so that the idle clock starts anew — the session expires as if nobody
    had asked."""
    site = site_of(interface, max_age=100)
    left_alone, asked_for = victim_at(site), victim_at(site)
    junk = junk_on(asked_for)
    for _ in range(3):
        site.clock.advance(33)
        left_alone.get()
        site.post(path, cookie=junk)
    site.clock.advance(2)
    assert left_alone.get().said == {"user": "victim"}
    assert has_nothing(asked_for.get())


# --- a verifier that held once


@both
@MINUTES
def test_a_former_verifier_reads_nothing(interface, later):
    """kept the cookie from before a renewal — it opens nothing, within the minute and after it."""
    site = site_of(interface)
    victim = victim_at(site)
    former = victim.cookie
    assert site.send(cookie=former).said == {"user": "victim"}
    victim.post("/renew")
    site.clock.advance(later)
    assert has_nothing(site.send(cookie=former))
    assert site.send(path="/pluck", cookie=former).said is None
    assert victim.get().said == {"user": "victim"}


@both
@MINUTES
@pytest.mark.parametrize("path", ["/write", "/count", "/pluck", "/assign", "/renew", "/token"])
def test_a_former_verifier_writes_nothing(interface, path, later):
    """writes with the cookie from before a renewal — nothing reaches the session; within the minute such a write is
    dropped, after it founds a session of their own."""
    site = site_of(interface)
    victim = victim_at(site)
    victim.post("/write", body=b"mine")
    attacker = Browser(site, victim.cookie)
    victim.post("/renew")
    site.clock.advance(later)
    attacker.post(path, body=b"evil")
    assert victim.get().said == {"user": "victim", "note": "mine"}
    if attacker.received:
        assert attacker.credential[:24] != victim.credential[:24]
    if path in ("/write", "/count"):
        assert bool(attacker.received) == (later > 60)
        assert ("write_dropped" in site.events) == (later < 60)


@both
def test_a_former_verifier_keeps_nothing_alive(interface):
    """asks and writes with the cookie from before a renewal, to keep the session alive — the idle clock goes on."""
    site = site_of(interface, max_age=100)
    victim = victim_at(site)
    former = victim.cookie
    victim.post("/renew")
    for _ in range(3):
        site.clock.advance(33)
        for path in ("/whoami", "/write", "/pluck", "/token"):
            site.post(path, cookie=former)
    site.clock.advance(2)
    assert has_nothing(victim.get())


@both
def test_a_former_verifier_logs_out_within_the_minute_and_does_no_more(interface):
    """logs out with a cookie that was planted and then renewed by the log-in — within the minute this is one browser's
    log-out that met its own renewal, and it holds; after the minute it does nothing."""
    site = site_of(interface)
    for wait, lives in ((59, False), (61, True)):
        victim = victim_at(site)
        former = victim.cookie
        victim.post("/renew")
        site.clock.advance(wait)
        site.post("/log_out", cookie=former)
        assert (victim.get().said == {"user": "victim"}) is lives


@both
def test_only_the_last_of_many_renewals_holds(interface):
    """kept every cookie that a session ever had — all but the last are dead, and but for the last but one none even
    logs out."""
    site = site_of(interface)
    victim = victim_at(site)
    kept = [victim.cookie]
    for _ in range(5):
        victim.post("/renew")
        kept.append(victim.cookie)
    assert len(set(kept)) == 6
    for cookie in kept[:-1]:
        assert has_nothing(site.send(cookie=cookie))
    for cookie in kept[:-2]:
        site.post("/log_out", cookie=cookie)
    assert victim.get().said == {"user": "victim"}


# --- the first answer is lost


@both
@pytest.mark.parametrize("way", [way for way in WAYS_TO_LOG_IN if way != "/set_and_renew"])
def test_a_log_in_submitted_twice_whose_first_answer_is_lost_works(interface, way):
    """cuts the connection before the answer to the log-in comes, so that the browser has a dead cookie — it logs in
    again at once, with that cookie and every way to log in."""
    site = site_of(interface)
    victim = Browser(site)
    victim.post("/write", body=b"cart")
    before = victim.cookie
    assert site.post(way, cookie=before, body=b"victim").cookie
    assert has_nothing(victim.get())
    victim.post(way, body=b"victim")
    assert victim.cookie != before
    assert victim.get().said["user"] == "victim"


@both
@pytest.mark.parametrize("way", ["/log_in", "/renew"])
def test_where_the_token_decides_a_lost_log_in_can_be_made_again_after_the_minute(interface, way):
    """cuts off the answer to a log-in where every form needs a token, which died with the first log-in — the old token
    fails as stale, and after the minute the form and the log-in work again."""
    site = site_of(interface, csrf=CSRF(mode="strict"))
    victim = Browser(site)

    def log_in(token: str) -> Reply:
        return victim.post(way, ("x-csrf-token", token), body=b"victim")

    token = victim.get("/token").said
    assert site.post(way, ("x-csrf-token", token), cookie=victim.cookie, body=b"victim").cookie
    assert log_in(token).rejection == "csrf_stale"
    assert log_in(victim.get("/token").said).status == 403
    site.clock.advance(61)
    assert log_in(victim.get("/token").said).status == 200
    assert victim.get().said["user"] == "victim"


# --- ids from outside


def cookies_of_no_session(site: Site) -> dict[str, str]:
    """Return well-formed cookies, none of which holds."""
    never = "attacker-chosen-value-00" + "x" * 40
    ended, expired, renewed, junk = (Browser(site) for _ in range(4))
    expired.post("/log_in", body=b"attacker")
    site.clock.advance(1801)
    for one in (ended, renewed, junk):
        one.post("/log_in", body=b"attacker")
    former = renewed.credential
    renewed.post("/renew")
    site.clock.advance(61)
    over = ended.credential
    ended.post("/log_out")
    return {
        "never issued": never,
        "ended": over,
        "expired": expired.credential,
        "renewed": former,
        "junk verifier": junk.credential[:24] + "A" * 40,
    }


@both
@pytest.mark.parametrize("kind", ["never issued", "ended", "expired", "renewed", "junk verifier"])
def test_an_id_from_outside_is_never_adopted(interface, kind):
    """presents an id of no living session (made up, ended, expired, renewed, with a junk verifier) and writes and logs
    in over it — nothing is made or written under the key that was sent, and what is founded has a key of its own."""
    site = site_of(interface, wrap=Spy)
    spy: Any = site.sessions.store
    sent = cookies_of_no_session(site)[kind]
    for path in (*WRITES, "/set_and_renew", "/log_out"):
        spy.made.clear()
        spy.written.clear()
        reply = site.post(path, cookie=f"session={sent}", body=b"evil")
        assert reply.status == 200
        assert sent[:24] not in spy.made + spy.written, path
        if reply.cookie:
            assert reply.cookie[8:32] in spy.made
            assert reply.cookie[32:] != sent[24:]
    assert has_nothing(site.send(cookie=f"session={sent}"))
    # Had it been a living one, the same request would have been a write under its key.
    living = victim_at(site)
    spy.written.clear()
    site.post("/write", cookie=living.cookie, body=b"mine")
    assert spy.written == [living.credential[:24]]


@both
def test_reading_with_an_unknown_id_makes_no_row_and_sets_no_cookie(interface):
    """reads with an id that nobody issued — no row, no cookie, and one call to the store."""
    spy = Spy()
    site = Site(interface, ENDPOINTS, session_store=spy)
    assert has_nothing(site.send(cookie=f"session={'x' * 64}"))
    assert spy.asked == ["x" * 24]
    assert spy.store.stats().sessions == 0
    assert site.events == ["unknown"]


MALFORMED = (
    *("", "A", "A" * 24, "A" * 63, "A" * 65, "A" * 128, " ", "=", "=" * 64, "." * 64, "*" * 64, "%41" * 64),
    *("A" * 63 + end for end in ("=", "+", "/", ".", "%", "\n", "\x00", "\xe9", "\xff", "\u00b2", "'", '"', ",")),
    *(f'"{"A" * size}"' for size in (62, 64)),
    *(text.encode().decode("latin-1") for text in ("\uff21" * 64, "\u0391" * 32, "\u00e9" * 32, "\U0001f36a" * 16)),
    *("null", "None", "undefined", "true", "[object Object]", "{}", "[]", "0", "-1", "\x00" * 64),
)


@both
def test_a_malformed_or_non_ascii_id_asks_the_store_nothing(interface):
    """sends ids that are too short, too long, empty, quoted, encoded, of other alphabets or not ASCII — the visitor is
    anonymous, and the store is not asked."""
    spy = Spy()
    site = Site(interface, ENDPOINTS, session_store=spy)
    for value in MALFORMED:
        for name in ("session=", "session =", "a=b; session="):
            assert has_nothing(site.send(cookie=f"{name}{value}"))
            assert site.post("/pluck", cookie=f"{name}{value}").said is None
    assert spy.calls == []
    site.send(cookie=f"session={'A' * 64}")
    assert spy.calls == ["get"]


@both
@pytest.mark.parametrize(
    "disguise", ["{}A", "A{}", '"{}"', "{}=", "{}.", "{} {}", "{},{}", "%20{}", "{}\x00", "\xa0{}", "{}\x0b"]
)
def test_a_good_id_in_disguise_is_no_id(interface, disguise):
    """presents a good id with something before, after or around it — what is not the id alone is none, so no two
    spellings name one session."""
    site = site_of(interface)
    victim = victim_at(site)
    value = victim.credential
    assert has_nothing(site.send(cookie=f"session={disguise.format(value, value)}"))
    assert site.send(cookie=f"session={value}").said == {"user": "victim"}


@both
def test_a_header_of_a_mebibyte_costs_no_call_and_hides_no_good_cookie(interface):
    """sends a Cookie header of 1 MiB: one value, one name, a million semicolons, ever so many pairs — the store is not
    asked for any of it, and a good cookie at its end is found."""
    spy = Spy()
    site = Site(interface, ENDPOINTS, session_store=spy)
    victim = victim_at(site)
    size = 1 << 20
    for huge in ("session=" + "A" * size, "A" * size, ";" * size, "a=b; " * (size // 5), "session=; " * (size // 10)):
        spy.calls.clear()
        assert has_nothing(site.send(cookie=huge))
        assert spy.calls == []
        assert site.send(cookie=f"{huge}; {victim.cookie}").said == {"user": "victim"}


@both
def test_of_a_flood_of_ids_four_are_looked_up(interface):
    """sends sixteen thousand different ids in one request — four of them are looked up and no more; a good one among
    the four is used."""
    spy = Spy()
    site = Site(interface, ENDPOINTS, session_store=spy)
    victim = victim_at(site)
    flood = "; ".join(f"session={number:064}" for number in range(16_000))
    spy.asked.clear()
    assert has_nothing(site.send(cookie=flood))
    assert set(spy.asked) == {"0" * 24}
    assert len(spy.asked) == 4
    assert site.send(cookie=f"{victim.cookie}; {flood}").said == {"user": "victim"}
    assert has_nothing(site.send(cookie=f"{flood}; {victim.cookie}"))


@both
def test_one_id_many_times_is_one_visitor(interface):
    """repeats the same cookie, in one header and in two — it is one session, as it was, and no signal."""
    site = site_of(interface)
    victim = victim_at(site)
    for cookie in (f"{victim.cookie}; {victim.cookie}", "; ".join([victim.cookie] * 100)):
        assert site.send(cookie=cookie).said == {"user": "victim"}
    assert site.send("GET", "/whoami", ("cookie", victim.cookie), cookie=victim.cookie).said == {"user": "victim"}
    assert "several_cookies" not in site.events


@both
@pytest.mark.parametrize("kind", ["idle time", "deadline"])
def test_an_expired_id_is_not_revived_by_use(interface, kind):
    """uses an expired id in every way there is — it stays dead, and what is founded is another session, empty."""
    site = site_of(interface, max_age=100, absolute_max_age=250)
    victim = victim_at(site)
    victim.post("/write", body=b"mine")
    for _ in range(3):
        site.clock.advance(80)
        assert victim.get().said == {"user": "victim", "note": "mine"}
    site.clock.advance(101 if kind == "idle time" else 11)
    for path in ("/whoami", *WRITES, "/log_out"):
        reply = site.post(path, cookie=victim.cookie, body=b"evil")
        assert "mine" not in reply.body.decode()
        assert has_nothing(site.send(cookie=victim.cookie))
        assert not reply.cookie or "mine" not in site.send(cookie=reply.cookie).body.decode()


# --- cookies of a sibling domain


@both
def test_a_jar_that_a_sibling_domain_overflowed_gives_no_session_of_the_siblings(interface):
    """overflows the victim's cookie jar from a sibling domain, so that `__Host-session` is gone and the request bears
    the sibling's `session` — it is not read; what the victim then writes, the attacker does not see."""
    site = site_of(interface, origin=ORIGIN)
    attacker = Browser(site)
    attacker.post("/write", body=b"planted", scheme="https")
    assert attacker.cookie.startswith("__Host-session=")
    assert site.send(cookie=attacker.cookie, scheme="https").said == {"note": "planted"}
    for name in ("session", "__Secure-session", "__Http-session", "__Host-Session", "Host-session", "__Host-sessio"):
        victim = Browser(site, f"{name}={attacker.credential}")
        assert has_nothing(victim.get(scheme="https"))
        victim.post("/write", body=b"card number", scheme="https")
        victim.post("/log_in", body=b"victim", scheme="https")
        assert victim.get(scheme="https").said == {"user": "victim"}
        assert attacker.get(scheme="https").said == {"note": "planted"}


@both
@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("tossed", ["unknown", "junk verifier", "malformed", "ended", "four"])
def test_a_tossed_cookie_that_does_not_live_is_passed_over(interface, tossed, secure):
    """tosses a second cookie of the name from a sibling domain: made up, of a junk verifier, malformed, of an ended
    session — the living one is used, in either order, and a signal tells of the two."""
    site = site_of(interface, **({"origin": ORIGIN} if secure else {}))
    scheme = "https" if secure else "http"
    victim, attacker = Browser(site), Browser(site)
    victim.post("/log_in", scheme=scheme)
    attacker.post("/log_in", scheme=scheme)
    name = victim.cookie.partition("=")[0]
    ended = attacker.credential
    attacker.post("/log_out", scheme=scheme)
    values = {
        "unknown": ["x" * 64],
        "junk verifier": [victim.credential[:24] + "A" * 40],
        "malformed": ["evil", "", '"', victim.credential + "A"],
        "ended": [ended],
        "four": ["x" * 64, "y" * 64, "z" * 64],
    }[tossed]
    others = "; ".join(f"{name}={value}" for value in values)
    for cookie in (f"{others}; {victim.cookie}", f"{victim.cookie}; {others}"):
        site.signals.clear()
        assert site.send(cookie=cookie, scheme=scheme).said["user"] == "victim"
        site.post("/write", cookie=cookie, body=b"mine", scheme=scheme)
        assert ("several_cookies" in site.events) is (tossed != "malformed")
    assert victim.get(scheme=scheme).said == {"user": "victim", "note": "mine"}
    assert has_nothing(site.send(cookie=others, scheme=scheme))


@both
def test_of_two_living_cookies_neither_is_taken(interface):
    """tosses the cookie of a living session of their own beside the victim's — the visitor is anonymous, in either
    order, and nothing is written to either."""
    site = site_of(interface)
    victim = victim_at(site)
    attacker = Browser(site)
    attacker.post("/log_in", body=b"attacker")
    for cookie in (f"{attacker.cookie}; {victim.cookie}", f"{victim.cookie}; {attacker.cookie}"):
        assert has_nothing(site.send(cookie=cookie))
        # Its two cookies name no session, so the browser's own word is what lets this pass.
        reply = site.post("/write", cookie=cookie, body=b"secret")
        assert reply.cookie
        assert site.send(cookie=reply.cookie).said == {"note": "secret"}
    assert victim.get().said == {"user": "victim"}
    assert attacker.get().said == {"user": "attacker"}
    assert "several_cookies" in site.events


@both
def test_what_sets_our_cookie_expires_what_was_tossed(interface):
    """tosses a living cookie for the parent domain and a path, to lock the victim out for good — the next log-in
    expires the name on every domain and path that it can have come from."""
    site = site_of(interface)
    victim, attacker = victim_at(site), victim_at(site)
    path = "/shop/cart"
    cookie = f"{attacker.cookie}; {victim.cookie}"
    site.endpoints[path] = site.endpoints["/log_in"]
    reply = site.post(path, cookie=cookie, host=f"www.{HOST}:8080", body=b"victim")
    *expiring, own = reply.all("set-cookie")
    gone = {
        (parts.get("Domain"), parts["Path"])
        for parts in (dict(part.split("=") for part in value.split("; ") if "=" in part) for value in expiring)
        if parts["session"] == "" and parts["Max-Age"] == "0"
    }
    assert {(domain, at) for domain in (f"www.{HOST}", HOST) for at in ("/", "/shop", path)} <= gone
    assert (None, "/") not in gone
    assert own.startswith("session=")
    assert site.send(cookie=own.partition(";")[0]).said == {"user": "victim"}
    # Without a rival nothing of the kind is sent.
    assert len(site.post(path, cookie=victim.cookie, host=f"www.{HOST}:8080").all("set-cookie")) == 1


@both
def test_a_host_of_the_attackers_choice_sets_no_domain_of_theirs(interface):
    """sends two cookies and a Host that would end one attribute and begin another — no Domain comes of it, and no
    header."""
    site = site_of(interface)
    victim = victim_at(site)
    cookie = f"session={'x' * 64}; {victim.cookie}"
    hosts = (
        *(f"{HOST}; Domain=evil.example", f"{HOST}\r\nSet-Cookie: a=b", f"{HOST}, evil.example", "evil.example/", "."),
        *(
            "a b",
            "[::1]",
            "203.0.113.9:80",
            "\xe9.example",
            "x" * 300 + ".example",
            "-.example",
            ".".join("abcdefghijklmnop"),
        ),
    )
    for host in hosts:
        reply = site.post("/renew", cookie=cookie, host=host)
        victim.cookie = reply.cookie
        cookie = f"session={'x' * 64}; {victim.cookie}"
        for value in reply.all("set-cookie"):
            assert value.count("Domain=") <= 1
            assert "evil" not in value or host == "evil.example/"
            assert value.isascii()
            assert value.isprintable()
        assert sum(map(len, reply.all("set-cookie"))) <= 2048 + 200
    assert victim.get().said == {"user": "victim"}


# --- `__Host-` forged

FORGED_NAMES = {
    "U+2000 before": "\u2000__Host-session=",
    "U+2003 before": "\u2003__Host-session=",
    "U+3000 before": "\u3000__Host-session=",
    "U+FEFF before": "\ufeff__Host-session=",
    "U+0085 before": "\u0085__Host-session=",
    "0xA0 before": b"\xa0__Host-session=",
    "0x85 before": b"\x85__Host-session=",
    "0x0B before": b"\x0b__Host-session=",
    "0x0C before": b"\x0c__Host-session=",
    "0x1C before": b"\x1c__Host-session=",
    "U+2000 after": "__Host-session\u2000=",
    "0xA0 after": b"__Host-session\xa0=",
    "NUL before": b"\x00__Host-session=",
    "NUL after": b"__Host-session\x00=",
    "NUL within": b"__Host-\x00session=",
    "percent-encoded": b"%5f%5fHost-session=",
    "percent-encoded hyphen": b"__Host%2Dsession=",
    "percent-encoded blank": b"%20__Host-session=",
    "lower case": b"__host-session=",
    "upper case": b"__HOST-SESSION=",
    "full-width letters": "__\uff28ost-session=",
    "long s": "__Host-\u017fession=",
    "Cyrillic": "__Host-s\u0435ssion=",
    "quoted name": b'"__Host-session"=',
    "quoted from name to value": b'"__Host-session=',
    "nameless": b"=__Host-session=",
    "nameless twice": b"==__Host-session=",
    "nameless, a blank": b" = __Host-session=",
    "a comma before": b"a=b,__Host-session=",
    "a backslash before": b"\\__Host-session=",
    "$ before": b"$__Host-session=",
    "two equals": b"__Host-session==",
    "a colon": b"__Host-session:",
    "brackets": b"__Host-session[]=",
    "underscores": b"__Host_session=",
}


@both
@pytest.mark.parametrize("forged", FORGED_NAMES)
def test_a_forged_host_prefix_is_not_our_cookie(interface, forged):
    """sets from a sibling domain a cookie whose name a lenient parser would read as `__Host-session` — it is not read,
    alone or beside the good one, in either order."""
    site = site_of(interface, origin=ORIGIN)
    victim, attacker = Browser(site), Browser(site)
    victim.post("/log_in", scheme="https")
    attacker.post("/log_in", body=b"attacker", scheme="https")
    assert site.send(cookie=f"__Host-session={attacker.credential}", scheme="https").said == {"user": "attacker"}
    name = FORGED_NAMES[forged]
    raw = (name.encode() if isinstance(name, str) else name).decode("latin-1") + attacker.credential
    assert has_nothing(site.send(cookie=raw, scheme="https"))
    for cookie in (f"{raw}; {victim.cookie}", f"{victim.cookie}; {raw}"):
        assert site.send(cookie=cookie, scheme="https").said == {"user": "victim"}
    assert "several_cookies" not in site.events


@both
@pytest.mark.parametrize("pair", [" {}", "\t{}", "  \t {}", "{} ", "{}\t"])
def test_blanks_that_browsers_trim_too_make_no_second_name(interface, pair):
    """sets a cookie named with a blank or a tab before `__Host-session` — browsers trim these before they check the
    prefix, and so do we: it is the cookie of the name, one of two, and where both live neither is taken."""
    site = site_of(interface, origin=ORIGIN)
    victim, attacker = Browser(site), Browser(site)
    victim.post("/log_in", scheme="https")
    attacker.post("/log_in", body=b"attacker", scheme="https")
    tossed = pair.format(attacker.cookie)
    for cookie in (f"{tossed}; {victim.cookie}", f"{victim.cookie};{tossed}"):
        assert has_nothing(site.send(cookie=cookie, scheme="https"))
    attacker.post("/log_out", scheme="https")
    for cookie in (f"{tossed}; {victim.cookie}", f"{victim.cookie};{tossed}"):
        assert site.send(cookie=cookie, scheme="https").said == {"user": "victim"}
    assert "several_cookies" in site.events


# --- neighbours

BROKEN = (
    *("bad[]=1", '"', "\x00", "no equals", "=", "==", "=value", "", " ", '"unclosed', 'a="b', "a='b", "{}=1", "@=1"),
    *(
        "a=\x00",
        "a=b=c",
        "a=\xff\xfe",
        "\xff=1",
        "a={" + '"b":1' + "}",
        "\\",
        "a=\\073",
        "$Version=1",
        "$Path=/",
        "a:b=c",
    ),
    *("a=b\r\n", "a=\x7f", "expires", "path=/", "a=(b)", "a=<b>", ",", "a,b=c", "session", "session:", "xsession=1"),
)


@both
def test_a_broken_neighbour_hides_no_good_cookie(interface):
    """sets a cookie that breaks lenient and strict parsers (`bad[]=1`, a quote, a NUL, no equals) before or behind the
    good one — the good one is read, and the victim stays logged in."""
    site = site_of(interface)
    victim = victim_at(site)
    for broken in BROKEN:
        assert has_nothing(site.send(cookie=broken))
        for cookie in (
            f"{broken}; {victim.cookie}",
            f"{victim.cookie}; {broken}",
            f"{broken};{victim.cookie};{broken}",
        ):
            assert site.send(cookie=cookie).said == {"user": "victim"}, broken
    assert "several_cookies" not in site.events


@both
def test_no_byte_but_the_semicolon_parts_two_cookies(interface):
    """hides a cookie of the name in another's value, behind each of the 255 other bytes — the good one is read alone;
    no byte makes two of one."""
    site = site_of(interface)
    victim = victim_at(site)
    attacker = Browser(site)
    attacker.post("/log_in", body=b"attacker")
    for byte in bytes(range(256)).replace(b";", b""):
        hidden = f"other=x{chr(byte)}{attacker.cookie}"
        assert has_nothing(site.send(cookie=hidden)), byte
        for cookie in (f"{hidden}; {victim.cookie}", f"{victim.cookie}; {hidden}"):
            assert site.send(cookie=cookie).said == {"user": "victim"}, byte
    assert "several_cookies" not in site.events
    assert site.send(cookie=f"other=x;{attacker.cookie}").said == {"user": "attacker"}


@both
def test_quotes_do_not_hide_a_semicolon(interface):
    """puts `;` and a cookie of the name between the quotes of another's value — to a browser the semicolon is the end
    whatever the quotes, so there are two of the name, and neither is taken silently."""
    site = site_of(interface)
    victim = victim_at(site)
    attacker = Browser(site)
    attacker.post("/log_in", body=b"attacker")
    for quoted in (f'a="x; {attacker.cookie}; b="', f'a="; {attacker.cookie}; "', f'"; {attacker.cookie};"'):
        assert has_nothing(site.send(cookie=f"{quoted}; {victim.cookie}"))
    assert "several_cookies" in site.events


# --- injection

INJECTIONS = (
    *(
        "../../../../etc/passwd",
        "..%2f..%2fetc%2fpasswd",
        "..\\..\\boot.ini",
        "/etc/passwd",
        "./.",
        "..",
        "~/.ssh/id_rsa",
    ),
    *(
        "' OR '1'='1",
        "'; DROP TABLE sessions; --",
        '" OR ""="',
        "1); DELETE FROM sessions WHERE (1=1",
        "%' OR 1=1 #",
        ":key",
    ),
    *("x\r\nFLUSHALL\r\n", "*1\r\n$8\r\nFLUSHALL\r\n", "*", "session:*", "{x}", "x y", "\r\nflush_all\r\n"),
    *("x 0 0 1\r\nA\r\nset y 0 0 1\r\nB", "x\nset y 0 0 1\nB", "x\x00y", "$(touch /tmp/x)", "`id`", "${jndi:ldap://x}"),
    *("{{7*7}}", "%s%n", "%(user)s", "\\x00", "\\", "\x1b[2J", "-", "A" * 250, "CON", "a" * 24, "\u202e", "\U0001f36a"),
)


def real_store(kind: str, directory: Path, request: pytest.FixtureRequest) -> Any:
    if kind == "file":
        return FileSessionStore(directory / "sessions")
    if kind == "sqlite":
        return SQLSessionStore(f"sqlite+pysqlite:///{directory}/sessions.db", create_table=True)
    server = request.getfixturevalue(f"{kind}_server")
    if kind == "postgresql":
        return SQLSessionStore(server.url_for("postgresql+psycopg"), create_table=True)
    if kind == "redis":
        return RedisSessionStore(server.url, prefix=f"{directory.name}:")
    return MemcachedSessionStore(server.url)


def at_a_server(kind: str) -> Any:
    # What a server does is the same on every Python.
    return pytest.param("wsgi", kind, marks=pytest.mark.once)


KEEPING = [("asgi", "file"), ("wsgi", "file"), *map(at_a_server, ("sqlite", "redis", "postgresql"))]
over_keeping_stores = pytest.mark.parametrize("interface,kind", KEEPING)
over_real_stores = pytest.mark.parametrize("interface,kind", [*KEEPING, at_a_server("memcached")])


@pytest.fixture
def real_site(interface: str, kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    store = real_store(kind, tmp_path, request)
    yield Site(interface, ENDPOINTS, session_store=store)
    closing = store.close() if hasattr(store, "close") else None
    if closing is not None:
        drive(closing)


@both
def test_no_path_and_no_command_reaches_a_store_as_an_id(interface):
    """puts a path, or a command of Redis, SQL or memcached, where the id belongs, as it is and filled up to an id's
    length — the store is never asked, whichever it is."""
    spy = Spy()
    site = Site(interface, ENDPOINTS, session_store=spy)
    for text in INJECTIONS:
        raw = text.encode().decode("latin-1")
        for value in (raw, raw.ljust(64, "A"), raw.rjust(64, "A"), raw.ljust(24, "A") + "B" * 40):
            if len(value) == 64 and value.replace("-", "").isalnum() and value.isascii():
                continue
            for path in ("/whoami", "/pluck", "/log_out", "/renew"):
                assert site.post(path, cookie=f"session={value}").said in ({}, None, False)
    assert spy.calls == []


@both
def test_what_is_no_sessions_id_opens_none(interface):
    """gives an application that opens sessions by their id what he has for one: cookies, the keys of owners' lists, ids
    that he made up, paths, commands — it is no session: nothing is read, written or founded."""
    spy = Spy()
    site = Site(interface, ENDPOINTS, session_store=spy)
    victim = Browser(site)
    victim.post("/sign_in", body=b"victim")
    selector = victim.credential[:24]
    keys = [key for key in spy.written if key != selector]
    assert keys
    spy.written.clear()
    for given in (victim.credential, selector + "\n", selector.swapcase(), "A" * 24, *keys, *INJECTIONS):
        if interface == "asgi":
            opened = site.sessions.open(given)
            did = [drive(one) for one in (opened.get(), opened.set({"a": 1}), opened.pluck("user"), opened.destroy())]
        else:
            blocking = site.sessions.sync.open(given)
            did = [blocking.get(), blocking.set({"a": 1}), blocking.pluck("user"), blocking.destroy()]
        assert did == [{}, False, None, False]
    assert spy.written == []
    assert victim.get().said == {"user": "victim"}


@over_keeping_stores
def test_an_owner_named_like_a_command_is_a_name(interface, kind, real_site, tmp_path):
    """signs up under the name of a path, or of a command of Redis, SQL or memcached — it is a name like any other: its
    sessions are listed and ended, nobody else's are, and no file is made elsewhere."""
    victim = Browser(real_site)
    victim.post("/sign_in", body=b"victim")
    for name in INJECTIONS:
        attacker = Browser(real_site)
        attacker.post("/sign_in", body=name.encode())
        assert attacker.get().said == {"user": name}
        (selector,) = real_site.post("/mine", body=name.encode()).said
        assert selector == attacker.credential[:24]
        assert real_site.post("/end_all", body=name.encode()).said == 1
        assert has_nothing(attacker.get())
    assert victim.get().said == {"user": "victim"}
    assert real_site.post("/mine", body=b"victim").said == [victim.credential[:24]]
    assert real_site.post("/end_all", body=b"victim").said == 1
    assert {path.name for path in tmp_path.iterdir()} <= {"sessions", "sessions.db"}


@over_real_stores
def test_a_key_or_a_value_like_a_command_is_kept_as_it_is(interface, kind, real_site):
    """chooses a session key, and a value, that is a path or a command of Redis, SQL or memcached — it comes out as it
    went in, or is refused before anything is written; the sessions beside it are whole."""
    victim, attacker = Browser(real_site), Browser(real_site)
    victim.post("/keep", body=b"victim")
    kept = {}
    for text in INJECTIONS:
        said = attacker.post("/keep", body=text.encode()).said
        assert said is True, text
        kept[text] = text
    for refused in ("\x00digest", "\x00", "\x00owner", "x" * 300, "\ud800"):
        assert attacker.post("/keep", body=refused.encode("utf-8", "surrogatepass")).said == "refused"
    assert attacker.get().said == kept
    assert victim.get().said == {"victim": "victim"}


ALIKE = (
    *("Victim", "VICTIM", "victim ", " victim", "victim\x00", "victim\n", "vic\u00adtim", "vict\u0131m", "v\u00edctim"),
    *("\uff56ictim", "vi\u0441tim", "victim\u200b", "victim/", "victim%", "vict_m", "victim*", "victim\ufeff", "victi"),
    *(unicodedata.normalize(form, "v\u00edctim \u212a \u017f") for form in ("NFC", "NFD", "NFKC", "NFKD")),
)


@over_keeping_stores
def test_a_name_like_the_victims_is_not_the_victims(interface, kind, real_site):
    """signs up under a name that a store or a collation would fold into the victim's (case, blanks, accents,
    look-alikes, wild cards), and logs out everywhere — the victim stays logged in, and is not listed."""
    victim = Browser(real_site)
    victim.post("/sign_in", body=b"victim")
    names = list(dict.fromkeys(ALIKE))
    assert len(names) == len(ALIKE)
    for name in names:
        attacker = Browser(real_site)
        attacker.post("/sign_in", body=name.encode())
        assert real_site.post("/mine", body=name.encode()).said == [attacker.credential[:24]], name
    for name in names:
        assert real_site.post("/end_all", body=name.encode()).said == 1, name
    assert victim.get().said == {"user": "victim"}
    assert real_site.post("/end_all", body=b"victim").said == 1
    assert has_nothing(victim.get())


# --- CR and LF

BREAKS = (
    "a\r\nSet-Cookie: session=evil",
    "a\nSet-Cookie: session=evil",
    "a\r\n\r\n<script>",
    "a\r",
    "\n",
    "a\x0bb",
    "a\x85b",
)


def test_no_line_break_gets_into_the_cookies_configuration():
    """gets a line break, or the sign that ends an attribute, into the cookie's configured name, path or domain — it is
    an error when it is configured, and no header comes of it."""
    CookieHandler("sid", path="/shop", domain=HOST)
    for text in (*BREAKS, "a;b", "a b", "a,b", "a=b", "a\x00", "\u2000a"):
        with pytest.raises(ConfigurationError, match="cannot be"):
            CookieHandler(text)
        with pytest.raises(ConfigurationError, match="domain cannot be"):
            CookieHandler(domain=text)
        if text not in ("a,b", "a=b"):
            with pytest.raises(ConfigurationError, match="path cannot be"):
                CookieHandler(path=f"/{text}")


@both
def test_a_line_break_in_what_is_kept_breaks_no_header(interface):
    """puts line breaks into the owner's name, a key and a value, while a cookie is being set — the answer has the one
    cookie, and no header has a line break."""
    site = site_of(interface)
    for text in BREAKS:
        browser = Browser(site)
        for path in ("/sign_in", "/keep", "/renew", "/replace", "/log_out"):
            reply = browser.post(path, body=text.encode())
            lines = [line for header in reply.headers for line in header]
            assert all(line.isprintable() for line in lines)
            assert len(reply.all("set-cookie")) == (path != "/keep")
            assert not any("evil" in value for value in reply.all("set-cookie"))
        assert browser.cookie is None


@both
def test_a_line_break_in_the_host_or_the_path_breaks_no_header(interface):
    """puts line breaks into the Host and the path while tossed cookies are expired on both — no header has a line
    break, and no cookie is set for a place of the attacker's."""
    site = site_of(interface)
    victim = victim_at(site)
    for text in BREAKS:
        hosts_and_paths = (
            (HOST + text, "/renew"),
            (text + HOST, "/renew"),
            (HOST, f"/a/{text}/b"),
            (HOST, f"/a%0d%0a{text}"),
        )
        for host, path in hosts_and_paths:
            site.endpoints[path] = site.endpoints["/renew"]
            reply = site.post(path, cookie=f"session={'x' * 64}; {victim.cookie}", host=host)
            lines = [line for header in reply.headers for line in header]
            assert all(line.isprintable() and line.isascii() for line in lines)
            assert not any("evil" in line for line in lines)
            victim.cookie = reply.cookie or victim.cookie
    assert victim.get().said == {"user": "victim"}


@both
def test_a_line_break_forges_no_line_of_the_log(interface, caplog):
    """puts line breaks and terminal escapes into every part of requests that are logged — each event is one printable
    line."""
    caplog.set_level(logging.DEBUG, "server_session")
    site = site_of(interface)
    victim = victim_at(site)
    for text in (*BREAKS, "\x1b[2Jevil"):
        headers = [(name, text) for name in ("origin", "referer", "x-forwarded-proto", "user-agent", "accept")]
        for name, value in headers:
            site.send("POST", f"/{text}", (name, value), cookie=victim.cookie, host=HOST + text)
            site.send("POST", f"/{text}", (name, f"https://{text}"), cookie=f"{text}; {victim.cookie}")
        site.send("POST", "/write", ("sec-fetch-site", f"cross-site{text}"), cookie=victim.cookie)
        site.send("POST", "/write", ("x-csrf-token", text), cookie=victim.cookie)
        site.send(f"POST{text}", "/write", ("origin", "https://evil.example"), cookie=victim.cookie)
        Browser(site).post("/sign_in", body=text.encode())
    lines = [entry.getMessage() for entry in caplog.records if entry.name == "server_session"]
    assert len([line for line in lines if line.startswith("a request that another site may have forged")]) > 50
    assert all(line.isprintable() for line in lines)
    assert not any("Set-Cookie" in line or "<script>" in line for line in lines)


@both
def test_the_log_and_the_signals_of_a_life_hold_no_credential(interface, caplog):
    """reads the log, at its finest, and the signals — no selector, no verifier and no token is in them, of the victim's
    session or of what was sent."""
    caplog.set_level(logging.DEBUG)
    site = site_of(interface)
    victim = victim_at(site)
    secret_parts = {victim.credential[:24], victim.credential[24:]}
    token = victim.get("/token").said
    for path in ("/renew", "/set_and_renew", "/log_in", "/clear", "/log_out"):
        victim.post(path)
        if victim.cookie:
            secret_parts |= {victim.credential[:24], victim.credential[24:]}
    for cookie in (f"session={'x' * 64}", *victim.received):
        site.send(cookie=cookie)
        site.send("POST", "/write", ("x-csrf-token", token), cookie=cookie)
    lines = [repr(vars(entry)) for entry in caplog.records if entry.name == "server_session"] + [repr(site.signals)]
    assert len(lines) > 10
    assert not any(part in line for line in lines for part in (*secret_parts, token, "x" * 24))
