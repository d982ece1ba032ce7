"""The shop as an application: `uvicorn --factory examples.demo.shop:create_shop`."""

from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from http import HTTPStatus

from fastapi import Depends, FastAPI, Request, Response
from fastapi.staticfiles import StaticFiles

from examples.demo.csrf import RefusedError, answer_refused, require_csrf_token
from examples.demo.pages import account, cart, checkout, refusals, window, wishes
from examples.demo.settings import Settings, is_one_process, place_of
from examples.demo.view import HERE, render
from examples.demo.visitor import COOKIE
from server_session import CookieHandler, Sessions, configure
from server_session.fastapi import SessionMiddleware


def create_shop() -> FastAPI:
    settings = Settings.from_environment()
    # Here, where each worker process comes by.
    sessions = configure(session_store=settings.store, cookie_handler=CookieHandler(COOKIE))
    shop = FastAPI(
        title="Leaf & Kettle",
        openapi_url=None,
        lifespan=lifespan_of(sessions),
        # For every page there is and will be: a POST that forgets the check cannot be written.
        dependencies=[Depends(require_csrf_token)],
    )
    # Only the functions are used here, and they load what they need.
    shop.add_middleware(SessionMiddleware, autoload=False)
    shop.add_exception_handler(RefusedError, answer_refused)
    shop.add_exception_handler(HTTPStatus.NOT_FOUND, answer_not_found)
    shop.mount("/static", StaticFiles(directory=HERE / "static"), "static")
    for page in (window, cart, checkout, account, wishes, refusals):
        shop.include_router(page.router)
    shop.state.store = place_of(settings.store)
    shop.state.is_one_process = is_one_process(settings.store)
    shop.state.partner = settings.partner
    shop.state.refusals = deque(maxlen=20)
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
