import asyncio
import json
from typing import Annotated, Any, TypedDict

import pytest
from fastapi import FastAPI, Request, Response

from server_session import DataTypeError, configure, set_session_data, sync, validate_csrf_token
from server_session.fastapi import CsrfToken, CurrentSession, SessionAs, SessionMiddleware
from tests.asgi_client import Client


class Cart(TypedDict, total=False):
    count: int


def application() -> FastAPI:
    configure()
    app = FastAPI()
    app.add_middleware(SessionMiddleware)

    @app.get("/put/{count}")
    async def put(session: CurrentSession, count: str) -> dict[str, Any]:
        session["count"] = int(count) if count.isdigit() else count
        return dict(session)

    @app.get("/cart")
    async def cart(cart: Annotated[Cart, SessionAs(Cart)]) -> dict[str, Any]:
        return {**cart}

    @app.get("/token")
    async def token(request: Request, token: CsrfToken) -> bool:
        return await validate_csrf_token(request, token)

    @app.get("/def")
    def blocking(request: Request) -> dict[str, Any]:
        sync.set_session_data(request, {"from": "def"})
        return sync.get_session_data()

    return app


async def test_the_session_the_typed_data_and_the_token_are_dependencies():
    client = Client(application())

    assert json.loads((await client.get("/cart")).body) == {}
    assert client.cookie is None
    assert json.loads((await client.get("/put/3")).body) == {"count": 3}
    assert json.loads((await client.get("/cart")).body) == {"count": 3}
    assert json.loads((await client.get("/token")).body) is True
    assert json.loads((await client.get("/def")).body) == {"count": 3, "from": "def"}


async def test_data_that_does_not_fit_the_type_is_an_error_that_names_the_field():
    client = Client(application())

    await client.get("/put/many")
    with pytest.raises(DataTypeError, match="count"):
        await client.get("/cart")


def test_the_response_that_fastapi_injects_gets_the_cookie_where_there_is_no_middleware():
    configure()
    app = FastAPI()

    @app.get("/")
    async def plain(request: Request, response: Response) -> bool:
        return await set_session_data(request, response, {"a": 1})

    answer = asyncio.run(Client(app).get("/"))
    assert answer.body == b"true"
    assert answer.all("set-cookie")[0].startswith("session=")
