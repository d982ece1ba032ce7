"""What the guard has answered to each attack of late, as this process has seen it."""

from collections import deque
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import NamedTuple

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from examples.demo.attacks import ATTACKS
from examples.demo.visitor import COOKIE
from server_session import Signal


class Verdict(NamedTuple):
    at: datetime
    request: str
    origin: str
    site: str
    has_cookie: bool
    status: int
    code: str
    """That of the rejection; `""` where the guard let the request pass."""


class Verdicts:
    """The last ones on each attack, the latest last."""

    def __init__(self) -> None:
        self._of = {attack.name: deque[Verdict](maxlen=attack.requests) for attack in ATTACKS.values()}

    def add(self, attack: str, verdict: Verdict) -> None:
        self._of[attack].append(verdict)

    def of(self, attack: str) -> list[Verdict]:
        return [*self._of[attack]]


_rejected: ContextVar[list[str]] = ContextVar("_rejected")


def hear(signal: Signal) -> None:
    """Take what the sessions tell: why the guard refused the request that is being served."""
    if signal.event == "csrf_rejected" and (codes := _rejected.get(None)) is not None:
        codes.append(signal.reason)


class Witness:
    """Stands outside the guard, and notes what becomes of the requests that say by which attack they were sent."""

    def __init__(self, app: ASGIApp, verdicts: Verdicts) -> None:
        self.app = app
        self._verdicts = verdicts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        attack = HTTPConnection(scope).query_params.get("attack") if scope["type"] in ("http", "websocket") else None
        if attack not in ATTACKS or scope["path"] != ATTACKS[attack].path:
            await self.app(scope, receive, send)
            return
        codes: list[str] = []
        is_noted = False

        async def note(message: Message) -> None:
            nonlocal is_noted
            # Before the browser hears of it, for then it may ask.
            if not is_noted:
                is_noted = True
                self._verdicts.add(attack, verdict_on(HTTPConnection(scope), message, "".join(codes)))
            await send(message)

        token = _rejected.set(codes)
        try:
            await self.app(scope, receive, note)
        finally:
            _rejected.reset(token)


def verdict_on(connection: HTTPConnection, start: Message, code: str) -> Verdict:
    scope, headers = connection.scope, connection.headers
    status = {"websocket.accept": 101, "websocket.close": 403}.get(start["type"]) or start["status"]
    return Verdict(
        at=datetime.now(UTC),
        request=f"{scope.get('method', 'WebSocket')} {scope['path']}",
        origin=headers.get("origin", "not said"),
        site=headers.get("sec-fetch-site", "not said"),
        has_cookie=COOKIE in connection.cookies,
        status=status,
        code=code,
    )
