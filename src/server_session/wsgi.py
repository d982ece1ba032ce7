"""Sessions for any WSGI application (PEP 3333)."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import TracebackType
from typing import Any, TypeAlias, Unpack

from server_session._carrier import current
from server_session._lifecycle import Answer
from server_session._request import WsgiRequest
from server_session._response import WsgiHeaders
from server_session._sessions import Sessions, Settings, configured
from server_session.exceptions import ConfigurationError, StoreError

__all__ = ["SessionMiddleware"]

Environ: TypeAlias = dict[str, Any]
ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]
Write: TypeAlias = Callable[[bytes], object]
StartResponse: TypeAlias = Callable[..., Write]
Application: TypeAlias = Callable[[Any, Any], Iterable[bytes]]


class SessionMiddleware:
    """Serves the blocking functions of `server_session.sync`, and a mapping, to a WSGI application.

    The mapping is `environ["server_session.session"]`, loaded where a cookie is present.

    Args:
        app: the application.
        sessions: a `Sessions`; by default what `configure` made, or one of the keywords given here.
        autoload: whether the mapping is loaded before the application is called: True, False (then it is absent,
            and the functions serve), or a function of the environ.
        settings: the keywords of `configure`, for sessions of this application's own.

    A store that does not answer is a response 503, if no other has started.

    """
