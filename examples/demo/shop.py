"""The shop as an application: `uvicorn --factory examples.demo.shop:create_shop`."""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from fastapi.staticfiles import StaticFiles

from examples.demo.pages import account, cart, checkout, devices, forgery, window, wishes
from examples.demo.settings import Settings, is_one_process, place_of
from examples.demo.verdicts import Verdicts, Witness, hear
from examples.demo.view import HERE, render
from examples.demo.visitor import COOKIE
from server_session import CookieHandler, Sessions, configure
from server_session.fastapi import SessionMiddleware

WATCH = timedelta(seconds=2)
"""How soon an open WebSocket learns that its session has ended."""


def create_shop(clock: Callable[[], float] = time.time) -> FastAPI:
    settings = Settings.from_environment()
    # Here, where each worker process comes by.
    sessions = configure(
        session_store=settings.store,
        cookie_handler=CookieHandler(COOKIE),
        on_signal=hear,
        clock=clock,
    )
    verdicts = Verdicts()
    shop = FastAPI(title="Leaf & Kettle", openapi_url=None, lifespan=lifespan_of(sessions))
    # Only the functions are used here, and they load what they need. What another site may have forged is refused for
    # every page there is and will be: a POST that forgets the check cannot be written.
    shop.add_middleware(SessionMiddleware, autoload=False, watch=WATCH)
    shop.add_middleware(Witness, verdicts=verdicts)
    shop.add_exception_handler(HTTPStatus.NOT_FOUND, answer_not_found)
    shop.mount("/static", StaticFiles(directory=HERE / "static"), "static")
    for page in (window, cart, checkout, account, devices, wishes, forgery):
        shop.include_router(page.router)
    shop.state.store = place_of(settings.store)
    shop.state.is_one_process = is_one_process(settings.store)
    shop.state.partner = settings.partner
    shop.state.sites = {"other": settings.partner, "sibling": settings.sibling}
    shop.state.verdicts = verdicts
    return shop


def lifespan_of(sessions: Sessions) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None, None]:
        # A SQL store has a table to be made; what has connections has them to be closed.
        if create_table := getattr(sessions.store, "create_table", None):
            await create_table()
        yield
        if close := getattr(sessions.store, "close", None):
            await close()

    return lifespan


async def answer_not_found(request: Request, _: Exception) -> Response:
    return await render(request, "not-found.html", status_code=HTTPStatus.NOT_FOUND)
