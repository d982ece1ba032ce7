"""Server-side HTTP sessions and CSRF protection for every Python web framework, async and blocking.

The functions here are awaitable; `server_session.sync` has the same ones blocking.
"""

from typing import TYPE_CHECKING

from server_session import exceptions, sync
from server_session._colour import Colour
from server_session._cookies import CookieHandler, CookieTransport
from server_session._functions import Health
from server_session._opened import OpenedSession as OpenedSession
from server_session._owners import OwnedSession
from server_session._sessions import DEFAULT as _DEFAULT
from server_session._sessions import Sessions
from server_session._sessions import configure as configure
from server_session._signals import Signal
from server_session.csrf.decorators import csrf_exempt, csrf_protect
from server_session.csrf.html import csrf_input, csrf_meta, csrf_script
from server_session.csrf.policy import CSRF
from server_session.exceptions import *  # noqa: F403 - its `__all__` is the list
from server_session.kernel.mapping import Session
from server_session.stores._base import APPLIED, CONFLICT, MISSING, Lifetime, Outcome, SessionStore
from server_session.stores._packed import PackedStore, Record
from server_session.stores._sealed import EncryptedCodec
from server_session.stores.memory import MemorySessionStore

__all__ = [
    "APPLIED",
    "CONFLICT",
    "CSRF",
    "MISSING",
    "Colour",
    "CookieHandler",
    "CookieTransport",
    "EncryptedCodec",
    "FileSessionStore",
    "Health",
    "Lifetime",
    "MemorySessionStore",
    "Outcome",
    "OwnedSession",
    "PackedStore",
    "Record",
    "Session",
    "SessionStore",
    "Sessions",
    "Signal",
    "csrf_exempt",
    "csrf_input",
    "csrf_meta",
    "csrf_protect",
    "csrf_script",
]
# Both modules have the same functions. mypy follows no `__all__` of another module: hence `X as X` above.
__all__ += sync.__all__
__all__ += exceptions.__all__

if TYPE_CHECKING:
    from server_session.stores.file import FileSessionStore


def __getattr__(name: str) -> object:
    # Imported late: applications with another store would pay for it at every start.
    if name == "FileSessionStore":
        from server_session.stores.file import FileSessionStore

        return FileSessionStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


destroy_session = _DEFAULT.destroy_session
destroy_sessions_of = _DEFAULT.destroy_sessions_of
get_csrf_token = _DEFAULT.get_csrf_token
get_session_data = _DEFAULT.get_session_data
health = _DEFAULT.health
is_alive = _DEFAULT.is_alive
log_in = _DEFAULT.log_in
open_session = _DEFAULT.open
pluck_session_property = _DEFAULT.pluck_session_property
renew_session = _DEFAULT.renew_session
replace_session_data = _DEFAULT.replace_session_data
require_fresh = _DEFAULT.require_fresh
sessions_of = _DEFAULT.sessions_of
set_session_data = _DEFAULT.set_session_data
update_session_data = _DEFAULT.update_session_data
update_sessions_of = _DEFAULT.update_sessions_of
validate_csrf_token = _DEFAULT.validate_csrf_token
