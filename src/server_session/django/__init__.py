"""Sessions for Django: `request.session` on the server, the functions of `server_session` in its views, and CSRF.

```python
SESSION_ENGINE = "server_session.django"
SERVER_SESSION = {"session_store": "redis://127.0.0.1:6379/0", "origin": "https://shop.example"}
MIDDLEWARE = [
    ...,
    "server_session.django.SessionMiddleware",  # where Django's own SessionMiddleware stands
    ...,
    "server_session.django.CsrfViewMiddleware",  # where Django's own CsrfViewMiddleware stands
    ...,
]
# and in TEMPLATES, for each engine: OPTIONS["context_processors"] = [..., "server_session.django.csrf"]
```

`SERVER_SESSION` has the keywords of `configure`, which a Django project does not call. The idle time-out is
`SESSION_COOKIE_AGE`, not `max_age`, and there is no `absolute_max_age` unless it is set. Each `SESSION_COOKIE_*`
that is set wins over the `cookie_handler`; Secure follows the origin unless `SESSION_COOKIE_SECURE` is True. With an
https origin and no name given the cookie is `__Host-session`, and `settings.SESSION_COOKIE_NAME` says so from then on.
"""

from django.contrib.sessions.backends.base import CreateError, UpdateError

from server_session.csrf.decorators import csrf_exempt
from server_session.django._csrf import (
    CsrfViewMiddleware,
    aget_token,
    csrf,
    csrf_protect,
    ensure_csrf_cookie,
    get_token,
)
from server_session.django._session import SessionMiddleware, SessionStore

__all__ = [
    "CreateError",
    "CsrfViewMiddleware",
    "SessionMiddleware",
    "SessionStore",
    "UpdateError",
    "aget_token",
    "csrf",
    "csrf_exempt",
    "csrf_protect",
    "ensure_csrf_cookie",
    "get_token",
]
