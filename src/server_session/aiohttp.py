"""Sessions for aiohttp: `setup(app)`, then `session = await get_session(request)`, and the functions."""

from asyncio import current_task, ensure_future
from datetime import timedelta
from functools import partial
from typing import Any, Unpack

from aiohttp import web
from aiohttp.payload import AsyncIterablePayload
from aiohttp.typedefs import Handler

from server_session._colour import to_its_end
from server_session._sessions import Sessions, Settings, chosen, configured
from server_session._settings import seconds_if_given
from server_session.adapters import Refusal, close_at_end, csrf_exempt, csrf_protect
from server_session.exceptions import UnavailableError
from server_session.exchange.streams import aclose_body, astreamed, has_body
from server_session.exchange.templates import served
from server_session.http.carrier import current
from server_session.http.frameworks import AiohttpBody, AiohttpRequest
from server_session.kernel.mapping import Session

__all__ = ["csrf_exempt", "csrf_protect", "get_session", "setup"]


def setup(
    app: web.Application,
    sessions: Sessions | None = None,
    watch: float | timedelta | None = None,
    **settings: Unpack[Settings],
) -> None:
    """Serve sessions to an application and its sub-applications: `sessions` or `settings`, else what `configure` made.

    What is refused is raised, as `web.HTTPForbidden` or `web.HTTPServiceUnavailable`, for the middlewares before this
    one. With `watch`, seconds or a timedelta between two questions to the store, an open WebSocket whose session has
    ended is closed (1008), and one whose store fails twice (1013).
    """
    own = chosen(sessions, settings)
    seconds = seconds_if_given("watch", watch)

    @web.middleware
    async def serve(request: web.Request, handler: Handler) -> web.StreamResponse:
        exchange = (own or configured()).exchange(AiohttpRequest.of(request))
        exchange.serve()
        # aiohttp gives each request a task, with a context of its own, which ends when the response was sent.
        current.set(exchange.request)
        current_task().add_done_callback(lambda _: exchange.leave())  # type: ignore[union-attr]
        if exchange.may_be_forged(request.method):
            content, endpoint = AiohttpBody(request), lambda: request.match_info.handler
            if refusal := await exchange.check(content, endpoint=endpoint, method=request.method):
                raise _error(refusal)
        body: Any = None
        try:
            response = await handler(request)
            body = getattr(response, "body", None)
        except UnavailableError as error:
            if exchange.is_started:
                raise
            raise _error(exchange.refuse(error)) from error
        finally:
            # Errors and redirects are raised, and store what the handler wrote before.
            if exchange.is_started and exchange.is_pending:
                # With `handler_cancellation` the leaving of a visitor, which ends a WebSocket, cancels this.
                await to_its_end(exchange.commit_late())
            elif refusal := await exchange.commit():
                await aclose_body(body)
                raise _error(refusal)
        is_pieced = isinstance(body, AsyncIterablePayload) and has_body(request.method, response.status)
        if is_pieced and isinstance(response, web.Response):
            response.body = astreamed(body._value, exchange)  # noqa: SLF001 - nothing else tells it
        return response

    async def start(request: Any, response: web.StreamResponse) -> None:
        exchange = (own or configured()).exchange(AiohttpRequest.of(request))
        await exchange.commit_late()
        is_streamed = "Content-Length" not in response.headers
        exchange.answer(response, varies=is_streamed)
        if not is_streamed:
            # A stream that could not start has told the writer to send chunks.
            request._payload_writer.chunked = False  # noqa: SLF001 - nothing else takes that back
        if seconds is not None and isinstance(response, web.WebSocketResponse):
            close = partial(response.close, message=b"session ended")
            watching = ensure_future(close_at_end(exchange, seconds, lambda code: close(code=code)))
            current_task().add_done_callback(lambda _: watching.cancel())  # type: ignore[union-attr]

    app.middlewares.append(serve)
    app.on_response_prepare.append(start)


async def get_session(request: web.BaseRequest) -> Session:
    """Return the request's session, a whole `dict`; raises `CarrierError` where none is served."""
    session = await served(AiohttpRequest.of(request)).load()
    session.mark_accessed()
    return session


def _error(refusal: Refusal) -> web.HTTPException:
    kind = web.HTTPForbidden if refusal.rejection else web.HTTPServiceUnavailable
    headers = [(name, value) for name, value in refusal.headers if name != "Content-Length"]
    return kind(headers=headers, text=refusal.body.decode())
