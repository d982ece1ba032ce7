"""An application whose sessions are looked at."""

import asyncio
from typing import Any

from server_session import EncryptedCodec, Sessions
from server_session._urls import open_store
from server_session.asgi import SessionMiddleware
from tests.asgi_client import Client

__all__ = ["Shop"]


class Shop:
    """An application whose sessions are in the store at a URL."""

    def __init__(self, url: str, *, key: str | None = None, **settings: Any) -> None:
        self.url = url
        self._settings = {"codec": EncryptedCodec([key])} if key else {}
        self._settings |= {"csrf": None, **settings}

    def visit(self, *owners: str | None, secret: str = "of-the-shop") -> list[str]:
        """Log these in, or found a session of nobody; return their cookies."""

        async def visit_all() -> list[str]:
            sessions = Sessions(session_store=open_store(self.url), **self._settings)

            async def app(scope: Any, receive: Any, send: Any) -> None:
                owner = dict(scope["headers"]).get(b"owner", b"").decode()
                if owner:
                    await sessions.log_in(owner, {"secret": secret})
                else:
                    await sessions.set_session_data({"secret": secret})
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body"})

            cookies: list[str] = []
            for owner in owners:
                client = Client(SessionMiddleware(app, sessions))
                named = [(b"owner", owner.encode())] if owner else []
                await client.get("/", headers=[(b"host", b"shop.example"), *named])
                assert client.cookie is not None
                cookies.append(client.cookie.partition("=")[2])
            store: Any = sessions.store
            if hasattr(store, "close"):
                closing = store.close()
                if closing is not None:
                    await closing
            return cookies

        return asyncio.run(visit_all())
