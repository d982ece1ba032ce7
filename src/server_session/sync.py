"""The functions, blocking, for Flask, Django's `def` views and every other WSGI application.

They are those of `server_session`, name for name; what each promises is said there. They never stall an event loop:
over a store that would, `ColourError` says what to call instead.
"""

from server_session._opened import BlockingOpenedSession as OpenedSession
from server_session._sessions import BLOCKING_DEFAULT, configure

__all__ = [
    "OpenedSession",
    "configure",
    "destroy_session",
    "destroy_sessions_of",
    "get_csrf_token",
    "get_session_data",
    "health",
    "is_alive",
    "log_in",
    "open_session",
    "pluck_session_property",
    "renew_session",
    "replace_session_data",
    "require_fresh",
    "sessions_of",
    "set_session_data",
    "update_session_data",
    "update_sessions_of",
    "validate_csrf_token",
]

destroy_session = BLOCKING_DEFAULT.destroy_session
destroy_sessions_of = BLOCKING_DEFAULT.destroy_sessions_of
get_csrf_token = BLOCKING_DEFAULT.get_csrf_token
get_session_data = BLOCKING_DEFAULT.get_session_data
health = BLOCKING_DEFAULT.health
is_alive = BLOCKING_DEFAULT.is_alive
log_in = BLOCKING_DEFAULT.log_in
open_session = BLOCKING_DEFAULT.open
pluck_session_property = BLOCKING_DEFAULT.pluck_session_property
renew_session = BLOCKING_DEFAULT.renew_session
replace_session_data = BLOCKING_DEFAULT.replace_session_data
require_fresh = BLOCKING_DEFAULT.require_fresh
sessions_of = BLOCKING_DEFAULT.sessions_of
set_session_data = BLOCKING_DEFAULT.set_session_data
update_session_data = BLOCKING_DEFAULT.update_session_data
update_sessions_of = BLOCKING_DEFAULT.update_sessions_of
validate_csrf_token = BLOCKING_DEFAULT.validate_csrf_token
