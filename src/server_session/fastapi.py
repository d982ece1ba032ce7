"""Sessions for FastAPI: Starlette's `request.session`, the functions, and typed dependencies.

```python
app = FastAPI()
app.add_middleware(SessionMiddleware)

@app.get("/")
async def index(session: CurrentSession) -> str:
    return session.get("user", "nobody")
```
"""

from typing import Annotated, Any, TypeAlias

from fastapi import Depends
from fastapi.requests import HTTPConnection

from server_session._sessions import DEFAULT
from server_session.kernel.mapping import Session
from server_session.starlette import SessionMiddleware, csrf_exempt, csrf_protect, load_session

__all__ = ["CsrfToken", "CurrentSession", "SessionAs", "SessionMiddleware", "csrf_exempt", "csrf_protect"]


async def _csrf_token(connection: HTTPConnection) -> str:
    return await DEFAULT.get_csrf_token(connection)


CurrentSession: TypeAlias = Annotated[Session, Depends(load_session)]
"""The request's session, a whole `dict`: `def endpoint(session: CurrentSession)`."""

CsrfToken: TypeAlias = Annotated[str, Depends(_csrf_token)]
"""A fresh CSRF token of the configured default's session, which it founds if there is none."""


def SessionAs(as_type: type[Any]) -> Any:  # noqa: N802 - it stands where FastAPI's own Depends and Query stand
    """Return a dependency that gives the session's data, checked, as a type of yours.

    `def endpoint(cart: Annotated[Cart, SessionAs(Cart)])`; data that does not fit raises `DataTypeError`. It serves the
    sessions that `configure` made.
    """

    async def session_as(connection: HTTPConnection) -> Any:
        return await DEFAULT.get_session_data(connection, as_type=as_type)

    return Depends(session_as)
