"""Ways to a Redis, and to a part of one: TLS, a socket, a number, a prefix; and one that evicts."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from server_session._colour import drive
from server_session.exceptions import StoreDownError, StoreError
from server_session.stores._base import APPLIED, MISSING, Lifetime
from server_session.stores.redis import _SCRIPT, RedisSessionStore
from server_session.stores.redis._errors import RIGHTS
from tests import servers
from tests.certificates import make_certificates
from tests.redis_sets import look_at
from tests.stores.test_redis import close

# What a server does is the same on every Python.
pytestmark = pytest.mark.once

LONG = Lifetime(1800, 86400)


@pytest.fixture(scope="module")
def open_server(folder: Path) -> Iterator[servers.Server]:
    """One that listens on a port, on a port with TLS, and on a socket."""
    made = make_certificates(folder)
    files = ("--tls-cert-file", str(made.certificate), "--tls-key-file", str(made.key))
    tls = (
        "--tls-port",
        str(servers.free_port()),
        "--tls-auth-clients",
        "no",
        "--tls-ca-cert-file",
        str(made.authority),
    )
    with servers.start_redis("--unixsocket", "socket", *tls, *files) as server:
        yield server


def of_tls(server: servers.Server) -> str:
    with look_at(server) as client:
        return f"rediss://127.0.0.1:{client.config_get('tls-port')['tls-port']}"


def test_tls_with_a_private_authority(open_server: servers.Server, folder: Path) -> None:
    store = RedisSessionStore(f"{of_tls(open_server)}/0?ssl_ca_certs={folder}/authority.pem")
    key = store.id()
    assert drive(store.set(key, {"a": b"1"}, LONG)) is APPLIED
    assert asyncio.run(store.get(key, {})) == {"a": b"1"}
    close(store)


@pytest.mark.parametrize("authority", ["", "?ssl_ca_certs=/nowhere/authority.pem"])
def test_without_the_authority_it_is_an_error_that_says_so(open_server: servers.Server, authority: str) -> None:
    store = RedisSessionStore(of_tls(open_server) + authority)
    for ask in (drive, asyncio.run):
        with pytest.raises(StoreDownError, match="ssl_ca_certs"):
            ask(store.get(store.id(), {}))
    close(store)


def test_a_server_that_asks_for_a_certificate_is_given_that_of_the_url(
    open_server: servers.Server, folder: Path
) -> None:
    with look_at(open_server) as client:
        client.config_set("tls-auth-clients", "yes")
    try:
        without = f"{of_tls(open_server)}/0?ssl_ca_certs={folder}/authority.pem"
        with pytest.raises(StoreDownError, match="ssl_certfile and ssl_keyfile"):
            asyncio.run(RedisSessionStore(without).get("k" * 24, {}))
        store = RedisSessionStore(f"{without}&ssl_certfile={folder}/certificate.pem&ssl_keyfile={folder}/key.pem")
        assert asyncio.run(store.get("k" * 24, {})) is MISSING
        assert drive(store.get("k" * 24, {})) is MISSING
        close(store)
    finally:
        with look_at(open_server) as client:
            client.config_set("tls-auth-clients", "no")


def test_a_socket_of_unix_and_a_number_of_a_database(open_server: servers.Server) -> None:
    key = "k" * 24
    for number in (3, 4):
        store = RedisSessionStore(f"unix://{open_server.folder}/socket?db={number}")
        assert asyncio.run(store.get(key, {})) is MISSING
        assert drive(store.set(key, {"number": b"%d" % number}, LONG)) is APPLIED
        by_port = RedisSessionStore(f"redis://127.0.0.1:{open_server.port}/{number}")
        assert asyncio.run(by_port.get(key, {})) == {"number": b"%d" % number}
        close(store)
    with look_at(open_server) as client:
        assert {name: client.info("keyspace")[name]["keys"] for name in ("db3", "db4")} == {"db3": 1, "db4": 1}


def test_a_number_that_the_server_does_not_have_is_told(open_server: servers.Server) -> None:
    store = RedisSessionStore(f"redis://127.0.0.1:{open_server.port}/99")
    for ask in (drive, asyncio.run):
        with pytest.raises(StoreError, match="DB index is out of range"):
            ask(store.get(store.id(), {}))
    close(store)


def test_two_applications_in_one_database_do_not_see_each_other(open_server: servers.Server) -> None:
    url = f"redis://127.0.0.1:{open_server.port}/5"
    shop, forum = (RedisSessionStore(url, prefix=prefix) for prefix in ("shop:", "forum:"))
    key = shop.id()
    assert drive(shop.set(key, {"user": b"ada"}, LONG)) is APPLIED
    assert drive(forum.get(key, {})) is MISSING
    assert drive(forum.merge(key, {"user": b"eve"}, (), {})) is MISSING
    assert drive(forum.destroy(key)) is False
    assert drive(forum.set(key, {"user": b"bob"}, LONG)) is APPLIED
    assert drive(shop.get(key, {})) == {"user": b"ada"}
    for store in (shop, forum):
        close(store)


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_an_evicted_session_is_unknown_and_no_call_an_error(policy: str) -> None:
    with servers.start_redis("--maxmemory-policy", policy) as server, look_at(server) as client:
        client.config_set("maxmemory", int(client.info("memory")["used_memory"]) + 3_000_000)
        store = RedisSessionStore(server.url)
        first = store.id()
        assert drive(store.set(first, {"user": b"ada"}, LONG)) is APPLIED
        client.pexpire(f"session:{first}", 1_000_000)
        kept = []
        while client.info("stats")["evicted_keys"] < 200:
            kept += [store.id() for _ in range(20)]
            for key in kept[-20:]:
                assert drive(store.set(key, {"user": b"ada", "cart": bytes(20_000)}, LONG)) is APPLIED
        # Redis looks at a few keys and evicts the best of them, so it is not told which go.
        found = [drive(store.get(key, {})) for key in (first, *kept)]
        gone = [key for key, fields in zip((first, *kept), found, strict=True) if fields is MISSING]
        assert len(gone) >= 200
        for ask in (drive, asyncio.run):
            assert ask(store.get(gone[0], {})) is MISSING
            assert ask(store.merge(gone[0], {"user": b"eve"}, (), {})) is MISSING
            assert ask(store.destroy(gone[0])) is False
        close(store)


def test_a_right_is_asked_about_with_as_many_arguments_as_its_command_takes(redis_server: servers.Server) -> None:
    # From Redis 8 on, one that is asked about with fewer is an error.
    (table,) = re.findall(r"local taken = \{(.*)\}", _SCRIPT.decode())
    taken = dict.fromkeys(RIGHTS.split(), 1) | {
        name: int(number) for name, number in re.findall(r"(\w+) = (\d)", table)
    }
    with look_at(redis_server) as client:
        known = client.execute_command("COMMAND INFO", *taken)
    assert list(taken.values()) == [abs(arity) - 1 for _, arity, *_ in known]
