"""The suite for adapters finds what an adapter does wrong: each fault is planted, and a test of the suite fails."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from server_session import Sessions, asgi
from server_session._cookies import Header
from server_session.asgi import SessionMiddleware
from server_session.csrf.verdict import Protection
from server_session.exchange import Exchange, checked, steps
from server_session.exchange.checked import Checked
from server_session.exchange.steps import Steps
from server_session.http.body import AsgiBody
from server_session.http.requests import Request
from server_session.http.responses import AsgiHeaders
from server_session.kernel.presence import ResponseState
from server_session.testing._site import _Watched
from tests.frameworks.test_starlette import TestStarlette as Sound

Plant = Callable[[pytest.MonkeyPatch], None]

_write_answer = steps.write_answer
_protection_of = checked.protection_of
_commit_late = Exchange.commit_late
_may_be_forged = Checked.may_be_forged
_exchange = _Watched.exchange


async def nothing(*_: Any) -> None:
    pass


async def forget(self: AsgiBody, limit: int) -> tuple[bytes, bool]:
    """Read the body, and keep nothing of it for the application."""
    body, more = b"", True
    while more:
        message = await self.receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)

    async def none() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    self.receive = none
    return body[:limit], len(body) <= limit


def overwrite(self: AsgiHeaders, headers: Iterable[Header]) -> None:
    """Put headers into the place of those that have their names."""
    more = [*headers]
    names = {name for name, _ in more}
    self.raw = [one for one in self.raw if one[0].lower() not in names] + more


def whose_is_served(self: Any, request: Request) -> Exchange:
    """Take the request that is being served for the one that is asked about."""
    return next((one for one in self.exchanges if one.is_served), None) or _exchange(self, request)


async def before_a_socket_is_open(self: Exchange) -> None:
    if not self.request.is_websocket or self._response is not ResponseState.STARTED:
        await _commit_late(self)


async def before_the_start_alone(self: Exchange) -> None:
    if self._response is not ResponseState.STARTED:
        await _commit_late(self)


async def answer_all_is_well(self: Any, refusal: Any) -> None:
    self._started = True
    await self._send({"type": "http.response.start", "status": 200, "headers": []})
    await self._send({"type": "http.response.body", "body": b"{}"})


FAULTS: dict[str, tuple[str, Plant]] = {
    "nothing is checked": (
        "csrf_refuses_another_site_s_form",
        lambda patch: patch.setattr(Checked, "may_be_forged", lambda *_: False),
    ),
    "only a POST is checked": (
        "csrf_refuses_another_site_s_form",
        lambda patch: patch.setattr(
            Checked, "may_be_forged", lambda self, method: method == "POST" and _may_be_forged(self, method)
        ),
    ),
    "no view is checked": (
        "csrf_refuses_another_site_s_form",
        lambda patch: patch.setattr(checked, "protection_of", lambda *_: Protection(exempt=True)),
    ),
    "nothing that a view asks for is heard": (
        "csrf_asks_a_token_where_a_view_is_strict",
        lambda patch: patch.setattr(SessionMiddleware, "endpoint_of", lambda *_: None),
    ),
    "a token is good for every view": (
        "csrf_asks_a_token_of_its_own_where_a_view_is_scoped",
        lambda patch: patch.setattr(checked, "protection_of", lambda *of: _protection_of(*of)._replace(scoped=False)),
    ),
    "the body in which a token was looked for is gone": (
        "csrf_leaves_the_body_whole",
        lambda patch: patch.setattr(AsgiBody, "read", forget),
    ),
    "a session is founded for another site": (
        "csrf_founds_no_session_for_another_site",
        lambda patch: patch.setattr(Steps, "_is_withheld", lambda *_: False),
    ),
    "nothing is stored": (
        "mapping_keeps_what_is_written_under_one_cookie",
        lambda patch: patch.setattr(Exchange, "commit_late", nothing),
    ),
    "nothing that a stream writes is stored": (
        "stream_writes_to_the_session",
        lambda patch: patch.setattr(Exchange, "commit_late", before_the_start_alone),
    ),
    "nothing that a WebSocket writes is stored": (
        "websocket_writes_to_the_session",
        lambda patch: patch.setattr(Exchange, "commit_late", before_a_socket_is_open),
    ),
    "the application's own cookie is lost": (
        "mapping_leaves_the_application_s_own_cookie_beside_the_session_s",
        lambda patch: patch.setattr(AsgiHeaders, "extend", overwrite),
    ),
    "visitors who come at once have one session": (
        "mapping_of_each_of_many_visitors_at_once_is_their_own",
        lambda patch: patch.setattr(_Watched, "exchange", whose_is_served),
    ),
    "a request is never over": (
        "mapping_keeps_what_is_written_under_one_cookie",
        lambda patch: patch.setattr(Steps, "leave", lambda *_, **__: None),
    ),
    "the cookie is not set": (
        "mapping_keeps_what_is_written_under_one_cookie",
        lambda patch: patch.setattr(Steps, "write_headers", lambda *_: None),
    ),
    "caches are not told that pages differ": (
        "mapping_of_a_stranger_is_empty_and_sets_no_cookie",
        lambda patch: patch.setattr(steps, "write_answer", lambda *_, **__: False),
    ),
    "caches may keep a token": (
        "template_bears_a_token_that_is_good",
        lambda patch: patch.setattr(
            steps, "write_answer", lambda *given, **named: _write_answer(*given, **{**named, "is_private": False})
        ),
    ),
    "the functions have another session than the mapping": (
        "functions_and_mapping_are_one_session",
        lambda patch: patch.setattr(Sessions, "exchange", lambda *of: Exchange(*of)),  # noqa: PLW0108 - a class would not bind
    ),
    "a store that is down is an answer like any other": (
        "errors_of_the_store_are_503",
        lambda patch: patch.setattr(asgi._Connection, "_refuse", answer_all_is_well),
    ),
    "a WebSocket of another site is let in": (
        "websocket_of_another_site_or_of_none_is_turned_away",
        lambda patch: patch.setattr(
            Checked,
            "may_be_forged",
            lambda self, method: not self.request.is_websocket and _may_be_forged(self, method),
        ),
    ),
    "a WebSocket outlives its session": (
        "websocket_is_closed_when_its_session_ends",
        lambda patch: patch.setattr(asgi._Connection, "close", nothing),
    ),
    "a mapping that took the other's place is not seen": (
        "mapping_that_is_replaced_is_what_is_stored",
        lambda patch: patch.setattr(asgi._Connection, "_take", nothing),
    ),
}


@pytest.mark.once
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_an_adapter_is_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, plant = FAULTS[fault]

    class Faulty(Sound):
        stores = ("yielding",)
        # What a fault keeps back never comes; who gives it up early has found the fault all the same.
        patience = 1.0

    plant(monkeypatch)
    try:
        with pytest.raises(AssertionError):
            getattr(Faulty(), f"test_{name}")()
    finally:
        Faulty.teardown_class()
