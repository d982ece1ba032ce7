"""Sessions for Starlette: `request.session`, and the functions with the request that every endpoint has.

```python
app = Starlette(routes=[...], middleware=[Middleware(SessionMiddleware, max_age=timedelta(minutes=30))])
```

Requests that another site may have forged are refused with 403. `@csrf_exempt` marks an endpoint that other servers
call, `@csrf_protect(...)` one that asks for more.
"""

from starlette.requests import HTTPConnection

from server_session.asgi import SessionMiddleware
from server_session.csrf.decorators import csrf_exempt, csrf_protect
from server_session.exceptions import SessionNotLoadedError
from server_session.kernel.mapping import Session
from server_session.kernel.unloaded import UnloadedSession

__all__ = ["SessionMiddleware", "csrf_exempt", "csrf_protect", "load_session"]


async def load_session(connection: HTTPConnection) -> Session:
    """Return `request.session` as what it is, a `Session`, loading it first where `autoload` left it.

    Raises `SessionNotLoadedError` if no `SessionMiddleware` serves the request.
    """
    session = connection.scope.get("session")
    if isinstance(session, UnloadedSession):
        return await session.load()
    if not isinstance(session, Session):
        raise SessionNotLoadedError("this request has no session: add server_session's SessionMiddleware")
    session.mark_accessed()
    return session
