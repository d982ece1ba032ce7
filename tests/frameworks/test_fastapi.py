"""The adapter for FastAPI keeps the contract of adapters."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, HTTPException, Request, Response, WebSocket
from fastapi.responses import PlainTextResponse, StreamingResponse
from fastapi.testclient import TestClient

from server_session.fastapi import CurrentSession, SessionMiddleware
from server_session.testing import AdapterContract, Encoded, Failed, Headed, Here, Page, Redirected, Site, Streamed
from tests.frameworks.serving import AWAITED, asked_by, uvicorn_serves
from tests.frameworks.test_starlette import TEMPLATES


async def form_of(request: Request) -> dict[str, Any]:
    return {**await request.form()}


def view_of(page: Page) -> Any:
    async def view(request: Request, response: Response, session: CurrentSession) -> Any:
        def replace(mapping: Any) -> None:
            request.scope["session"] = mapping

        here = Here(
            lambda: session,
            request,
            request.query_params,
            lambda: form_of(request),
            request.body,
            response,
            TEMPLATES.get_template("form").render,
            replace,
        )
        match await page.body(here):
            case Redirected(path):
                raise HTTPException(303, headers={"Location": path})
            case Failed(status):
                raise HTTPException(status)
            case Streamed(chunks):
                return StreamingResponse(chunks)
            case Encoded(value):
                # FastAPI copies what an endpoint returns, field for field.
                return value
            case Headed(text, headers):
                answer = PlainTextResponse(text)
                for name, value in headers:
                    answer.headers.append(name, value)
                return answer
            case text:
                return PlainTextResponse(str(text))

    async def untouched(request: Request, response: Response) -> Any:
        return PlainTextResponse(str(await page.body(Here(dict, request, {}, dict, request.body, response))))

    return page.mark(untouched if page.path == "/nothing" or page.path.startswith("/data/") else view)


class TestFastAPI(AdapterContract):
    stores = AWAITED
    has_own_pages = False
    can_replace = True

    def make_app(self, site: Site) -> FastAPI:
        app, inner = FastAPI(), APIRouter()
        for page in site.pages:
            router, path = (inner, page.path.removeprefix("/inner")) if page.is_inner else (app, page.path)
            methods = [*page.methods, *(["HEAD"] if "GET" in page.methods else [])]
            router.add_api_route(path, view_of(page), methods=methods, response_model=None)

        @app.websocket("/socket")
        async def socket(websocket: WebSocket, session: CurrentSession) -> None:
            await websocket.accept()
            await websocket.send_text(await site.greeting(session))
            await websocket.receive()

        app.include_router(inner, prefix="/inner")
        app.add_middleware(SessionMiddleware, sessions=site.sessions, watch=site.watch)
        return app

    def serve(self, app: FastAPI) -> AbstractContextManager[int]:
        return uvicorn_serves(app)

    @contextmanager
    def client(self, app: FastAPI) -> Iterator[Any]:
        yield asked_by(TestClient(app))
