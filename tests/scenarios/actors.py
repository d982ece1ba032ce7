"""Who takes the steps of a scenario: the library here, or a process of Node.js, which is told a line of JSON a step."""

import asyncio
import itertools
import json
from collections.abc import Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any, NamedTuple, Protocol

from starlette.requests import Request
from starlette.responses import Response

from server_session import NotFreshError, SessionError, Sessions
from server_session._codec import decode_value, encode_value
from tests.asgi_client import scope_of
from tests.node import NODE, PACKAGE
from tests.patience import PATIENCE

__all__ = ["Actor", "NodeActor", "Outcome", "PythonActor", "Visit"]

Value = Any


class Visit(NamedTuple):
    """A request, as an actor is told of it: those of one name are one."""

    request: str
    cookie: str
    method: str = "GET"
    headers: dict[str, str] = {}  # noqa: RUF012 - nobody changes it
    is_alone: bool = False
    """Whether it comes without a response."""


class Outcome(NamedTuple):
    """What a step gave, or which error it raised; and the `Set-Cookie` headers of its response."""

    gives: Value
    raises: str | None
    cookies: list[str]
    why: str = ""


class Actor(Protocol):
    async def take(self, visit: Visit, do: str, arguments: list[Value]) -> Outcome: ...


def read(value: Value) -> Value:
    return decode_value("", json.dumps(value).encode())


def written(value: Value) -> Value:
    return json.loads(encode_value("", value))


class PythonActor:
    """The library's awaitable functions, as an application without a middleware calls them."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._requests: dict[str, tuple[Any, ...]] = {}

    async def take(self, visit: Visit, do: str, arguments: list[Value]) -> Outcome:
        if visit.request not in self._requests:
            scope = scope_of(cookie=visit.cookie or None, method=visit.method)
            scope["headers"] += [(name.encode(), value.encode()) for name, value in visit.headers.items()]
            self._requests[visit.request] = (Request(scope),) if visit.is_alone else (Request(scope), Response())
        carrier = self._requests[visit.request]
        gives, raises = None, None
        try:
            gives = await getattr(self, do.replace(" ", "_"))(*carrier, *arguments)
        except SessionError as error:
            raises = type(error).__name__
        cookies = carrier[1].headers.getlist("set-cookie") if carrier[1:] else []
        return Outcome(gives, raises, cookies)

    async def get(self, *carrier: Any) -> Value:
        return {name: written(value) for name, value in (await self._sessions.get_session_data(*carrier)).items()}

    async def look(self, *carrier: Any) -> Value:
        data = await self._sessions.get_session_data(*carrier, touch=False)
        return {name: written(value) for name, value in data.items()}

    async def alive(self, *carrier: Any) -> bool:
        return await self._sessions.is_alive(*carrier)

    async def set(self, *arguments: Any) -> bool:
        return await self._sessions.set_session_data(*_with_data(arguments))

    async def add(self, *arguments: Any) -> bool:
        *carrier, name, number = arguments
        return await self._update(carrier, lambda data: data.update({name: data.get(name, 0) + number}))

    async def copy(self, *arguments: Any) -> bool:
        *carrier, source, target = arguments
        return await self._update(carrier, lambda data: data.update({target: data[source]}))

    async def remove(self, *arguments: Any) -> bool:
        *carrier, name = arguments

        def change(data: dict[str, Any]) -> None:
            data.pop(name, None)

        return await self._update(carrier, change)

    async def _update(self, carrier: list[Any], change: Callable[[dict[str, Any]], None]) -> bool:
        return await self._sessions.update_session_data(*carrier, change)

    async def replace(self, *arguments: Any) -> bool:
        return await self._sessions.replace_session_data(*_with_data(arguments))

    async def reset(self, *arguments: Any) -> bool:
        return await self._sessions.replace_session_data(*_with_data(arguments), in_place=True)

    async def log_in(self, *arguments: Any) -> bool:
        return await self._sessions.log_in(*_with_data(arguments))

    async def pluck(self, *arguments: Any) -> Value:
        return written(await self._sessions.pluck_session_property(*arguments))

    async def renew(self, *arguments: Any) -> bool:
        *carrier, data = arguments if isinstance(arguments[-1], dict) else (*arguments, None)
        return await self._sessions.renew_session(*carrier, data=data and _data(data))

    async def destroy(self, *carrier: Any) -> bool:
        return await self._sessions.destroy_session(*carrier)

    async def token(self, *arguments: Any) -> str:
        *carrier, scope = arguments
        return await self._sessions.get_csrf_token(*carrier, scope=_scope(scope))

    async def validate(self, *arguments: Any) -> bool:
        *carrier, token, scope = arguments
        return await self._sessions.validate_csrf_token(*carrier, token, scope=_scope(scope))

    # --- what only the library here does

    async def fresh(self, *carrier: Any) -> bool:
        try:
            await self._sessions.require_fresh(*carrier, timedelta(hours=1))
        except NotFreshError:
            return False
        return True

    async def remember(self, *carrier: Any) -> bool:
        return await self._sessions.renew_session(*carrier, persistent=True)

    async def sessions_of(self, *arguments: Any) -> int:
        return len(await self._sessions.sessions_of(arguments[-1]))

    async def end_sessions_of(self, *arguments: Any) -> int:
        return await self._sessions.destroy_sessions_of(arguments[-1])

    async def lose(self, request: Request, _response: Response) -> bool:
        (value,) = request.cookies.values()
        return await self._sessions.store.destroy(value[:24])


def _data(data: dict[str, Value]) -> dict[str, Value]:
    return {name: read(value) for name, value in data.items()}


def _with_data(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*arguments[:-1], _data(arguments[-1]))


def _scope(scope: str) -> tuple[str, str] | None:
    method, _, path = scope.partition(" ")
    return (method, path) if path else None


class NodeActor:
    """A process of Node.js; `form` is `ours` or `next-server-session`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}

    @staticmethod
    @asynccontextmanager
    async def started(form: str, url: str) -> Any:
        async with AsyncExitStack() as stack:
            process = await asyncio.create_subprocess_exec(
                *(NODE, PACKAGE / "test/actor.js", form, url),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=1 << 24,
            )

            async def end() -> None:
                assert process.stdin is not None
                process.stdin.close()
                await asyncio.wait_for(process.wait(), PATIENCE)

            stack.push_async_callback(end)
            actor = NodeActor(process)
            listening = asyncio.create_task(actor._listen())
            stack.callback(listening.cancel)
            yield actor

    async def take(self, visit: Visit, do: str, arguments: list[Value]) -> Outcome:
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        told = {"number": number, **visit._asdict(), "isAlone": visit.is_alone, "do": do, "with": arguments}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(told).encode() + b"\n")
        said = await asyncio.wait_for(answer, PATIENCE)
        return Outcome(said.get("gives"), said.get("raises"), said["cookies"], said.get("why", ""))

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            said = json.loads(line)
            self._waiting.pop(said["number"]).set_result(said)
        for answer in self._waiting.values():
            answer.set_exception(RuntimeError("the process ended"))
