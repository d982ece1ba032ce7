"""Attacks on visitors who come from another library: with its cookies, and where it keeps its sessions."""

import base64
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from itsdangerous import TimestampSigner

from server_session import MemorySessionStore, SessionStore
from server_session._colour import drive
from server_session._record import CLAIM, ENDED
from server_session.adopt import FlaskSessionRedis, StarletteCookie
from server_session.stores.redis import RedisSessionStore
from tests.adopt.old import LIBRARIES, SECRET, SIGNED, Old, by_starlette
from tests.adopt.stage import KINDS, MINUTE, over_both, shown, site_maker, site_of
from tests.attacks.stage import Browser, Site, timed_site
from tests.visitors import Watched


@pytest.fixture(params=LIBRARIES)
def old(request: pytest.FixtureRequest, redis_server: Any) -> Old:
    return LIBRARIES[request.param](redis_server.url)


@pytest.fixture(params=SIGNED)
def signed(request: pytest.FixtureRequest) -> Old:
    return LIBRARIES[request.param]("")


@pytest.fixture(params=KINDS)
def make_site(request: pytest.FixtureRequest, redis_server: Any, tmp_path: Path) -> Callable[..., Site]:
    return site_maker(request.param, redis_server.url, f"{tmp_path}:")


@over_both
def test_an_ended_session_stays_ended_whatever_old_cookie_comes(old: Old, make_site: Any, interface: str) -> None:
    """sends the old cookie again after the log-out: a restored tab, a thief, a backup of the jar — it stays ended."""
    site = make_site(interface, old.reader)
    browser = Browser(site, old.cookie)
    browser.get("/whole")
    assert browser.post("/log_out").said is True
    for _ in range(2):
        assert site.send(path="/whole", cookie=old.cookie).said == shown({})
        site.clock.advance(MINUTE)


def test_an_old_cookie_does_not_outlive_what_is_noted_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """sends a signed cookie, long taken over, in its very last second, or from a machine whose clock is behind — it is
    spent for as long as it counts anywhere.
    """
    site = timed_site("wsgi", adopt=[StarletteCookie(SECRET, max_age=1000)])
    behind = 0
    monkeypatch.setattr(TimestampSigner, "get_timestamp", lambda _: int(site.clock()) - behind)
    site.clock.advance(0.9)
    cookie = "session=" + TimestampSigner(SECRET).sign(base64.b64encode(b'{"user": "ada"}')).decode()
    assert site.send(cookie=cookie).said == {"user": "ada"}
    site.clock.advance(1000.05)
    assert site.send(cookie=cookie).said == {}
    behind = 30
    site.clock.advance(30)
    assert site.send(cookie=cookie).said == {}


@over_both
def test_who_logs_out_does_not_come_back_by_another_old_cookie(interface: str) -> None:
    """comes to the browser after the log-out, in which the cookie of a second library lay beside the session's, and
    was not taken over — the log-out lets the browser forget that one too.
    """
    old = by_starlette("")
    name, _, value = old.cookie.partition("=")
    site = timed_site(interface, adopt=[old.reader, StarletteCookie(SECRET, "second")])
    browser = Browser(site, old.cookie)
    browser.get()
    reply = site.post("/log_out", cookie=f"{browser.cookie}; second={value}")
    assert reply.said is True
    assert [line.partition("=")[0] for line in reply.all("set-cookie") if "=; Path=/; Max-Age=0" in line] == [
        "second",
        name,
    ]


def test_the_claim_of_an_old_session_is_none_that_an_id_opens() -> None:
    """has an application open the id under which it is noted that a session was taken over, of an old cookie that the
    attacker has — it is no session, nothing is written, and the old cookie stays spent.
    """
    old = by_starlette("")
    store = MemorySessionStore()
    site = site_of(old.reader, store=store)
    site.send(cookie=old.cookie)
    (key,) = [kept.key for kept in drive(store.list_records()).records if CLAIM in kept.fields]
    opened = site.sessions.sync.open(key)
    assert (opened.get(), opened.set({"user": "the attacker"}), opened.destroy()) == ({}, False, False)
    assert not any(ENDED in kept.fields for kept in drive(store.list_records()).records)


@pytest.mark.parametrize("respell", [lambda text: text + "=", lambda text: text[:-3] + "!!!!" + text[-3:]])
def test_a_signed_cookie_that_is_spelt_anew_is_no_other_one(signed: Old, respell: Callable[[str], str]) -> None:
    """spells the signature of a cookie that was taken over otherwise, which the library takes for the same — it is
    that one, and spent.
    """
    site = site_of(signed.reader)
    name, _, value = signed.cookie.partition("=")
    assert site.send(path="/whole", cookie=signed.cookie).said == shown(signed.data)
    site.clock.advance(MINUTE)
    other = respell(value)
    assert signed.reader.key(other) == signed.reader.key(value)
    assert site.send(path="/whole", cookie=f"{name}={other}").said == shown({})


@pytest.mark.parametrize("planted", [{"cart": "the attacker's"}, {"user": "the attacker"}])
@pytest.mark.parametrize("path", ["/log_in", "/replace", "/renew", "/assign", "/clear"])
@over_both
def test_whoever_planted_the_old_cookie_has_no_part_in_the_log_in(
    planted: dict[str, str], path: str, interface: str, make_site: Any
) -> None:
    """plants an old cookie of their own, anonymous or logged in, and waits for the log-in, by every way to log in —
    the log-in has a cookie that the old one does not lead to.
    """
    old = by_starlette("", planted)
    site = make_site(interface, old.reader)
    victim = Browser(site, old.cookie)
    victim.post(path, body=b"victim")
    assert victim.get().said["user"] == "victim"
    for _ in range(2):
        assert site.send(cookie=old.cookie).said in ({}, {"cart": "the attacker's"})
        site.clock.advance(MINUTE)


def test_visitors_who_hold_the_very_same_cookie_share_no_session() -> None:
    """has the very same old cookie as another visitor, with no log-in in it, signed in the same second — each is given
    a session of their own.
    """
    # The same data signed in the same second, for two who have not logged in.
    old = by_starlette("", {"cart": [1]})
    site = site_of(old.reader)
    one, other = Browser(site, old.cookie), Browser(site, old.cookie)
    assert one.get().said == other.get().said == {"cart": [1]}
    one.post("/write", body=b"an address")
    assert one.get().said == {"cart": [1], "note": "an address"}
    assert other.get().said == {"cart": [1]}


def test_a_request_that_was_stopped_for_a_minute_brings_nothing_back() -> None:
    """has a request stopped for a minute between two of its steps, while the session is taken over and ended — it
    brings nothing back.
    """
    old = by_starlette("")

    class Stopping(Watched):
        meanwhile: Callable[[], None] | None = None

        async def set(self, key: str, *rest: Any) -> Any:
            if "user" in rest[0] and self.meanwhile:
                run, self.meanwhile = self.meanwhile, None
                run()
            return await super().set(key, *rest)

    sites: list[Site] = []

    def others() -> None:
        browser = Browser(sites[0], old.cookie)
        assert browser.get().said == old.data
        assert browser.post("/log_out").said is True
        sites[0].clock.advance(MINUTE)

    stores: list[Stopping] = []

    def wrap(store: SessionStore) -> SessionStore:
        stores.append(Stopping(store))
        return stores[0]

    sites.append(timed_site("wsgi", wrap=wrap, adopt=[old.reader]))
    stores[0].meanwhile = others
    assert sites[0].send(cookie=old.cookie).said == {}
    assert sites[0].send(cookie=old.cookie).said == {}


@over_both
def test_a_forged_request_with_the_old_cookie_is_checked_as_with_ours(old: Old, interface: str) -> None:
    """has the victim's browser send a forged request, with which the old cookie comes and no other — it is checked as
    one with a session's cookie, and nothing is taken over.
    """
    site = timed_site(interface, adopt=[old.reader])
    reply = site.send("POST", "/write", cookie=old.cookie, body=b"x")
    assert (reply.status, reply.rejection) == (403, "csrf_token_missing")
    assert site.send("POST", "/write", ("sec-fetch-site", "cross-site"), cookie=old.cookie).status == 403
    assert site.seen == []
    assert site.events.count("adopted") == 0
    assert site.send("POST", "/write", body=b"x").status == 200
    assert site.post("/write", cookie=old.cookie, body=b"x").said is True


class Bomb:
    """What a pickle could do."""

    def __reduce__(self) -> Any:
        return pytest.fail, ("a pickle was loaded",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_never_loaded_and_said_once(redis_server: Any, caplog: Any, protocol: int) -> None:
    """puts a pickle where the other library keeps its sessions — it is not loaded, and once it is said why."""
    client = redis.Redis.from_url(redis_server.url)
    site = site_of(FlaskSessionRedis(redis_server.url))
    for number in range(2):
        client.set(f"session:{'p' * 42}{number}", pickle.dumps({"user": Bomb()}, protocol))
        assert site.send(cookie=f"session={'p' * 42}{number}").said == {}
    (said,) = [record.getMessage() for record in caplog.records if "another library" in record.getMessage()]
    assert "FlaskSessionRedis" in said
    assert protocol < 2 or "it is a pickle" in said
    assert client.exists(f"session:{'p' * 42}0")


def test_a_session_of_ours_is_no_old_one_where_both_share_a_prefix(redis_server: Any) -> None:
    """sends the selector of a living session for the id of an old one, where both have the same prefix in Redis — it
    is no old session, and the living one stays.
    """
    site = Site("wsgi", session_store=redis_server.url, adopt=[FlaskSessionRedis(redis_server.url)])
    browser = Browser(site)
    browser.post("/log_in")
    selector = str(browser.cookie).partition("=")[2][:24]
    reply = site.send(cookie=f"session={selector}")
    assert (reply.status, reply.said) == (200, {})
    assert browser.get().said == {"user": "victim"}


def test_the_store_holds_no_credential_while_a_session_is_taken_over(redis_server: Any, tmp_path: Any) -> None:
    """reads the store while a session is taken over — no row has a credential, nor the old cookie."""
    old = by_starlette("")
    store = RedisSessionStore(redis_server.url, prefix=f"{tmp_path.name}:")
    browser = Browser(site_of(old.reader, store=store), old.cookie)
    browser.get()
    client = redis.Redis.from_url(redis_server.url)
    rows = {key: client.hgetall(key) for key in client.keys(f"{tmp_path.name}:*")}
    assert len(rows) == 2
    verifier, value = browser.credential[24:].encode(), old.cookie.partition("=")[2].encode()
    assert not any(verifier in text or value[:20] in text for row in rows.values() for text in (*row, *row.values()))
