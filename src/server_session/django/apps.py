"""`"server_session.django"` in `INSTALLED_APPS`: `login()` names the owner, and the admin lists and ends sessions."""

from typing import Any

from django.apps import AppConfig
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.signals import user_logged_in
from django.http import HttpRequest

from server_session._owners import require_owners
from server_session.django._project import PROJECT
from server_session.django._session import found_session

__all__ = ["ServerSessionConfig"]


class ServerSessionConfig(AppConfig):
    """The app. It is optional, and needs a store that keeps what it is given, as all that is about owners."""

    name = "server_session.django"
    label = "server_session"
    verbose_name = "Server sessions"
    default_auto_field = "django.db.models.BigAutoField"

    def __init__(self, app_name: str, app_module: Any) -> None:
        super().__init__(app_name, app_module)
        # Before those who connect when they are ready: they may keep the session's key, and a log-in is given another.
        user_logged_in.connect(_name_owner)

    def ready(self) -> None:
        """Refuse what cannot work."""
        # It is said when the process starts; and commands, which have no middleware, have the functions.
        require_owners(PROJECT.sessions().store)


def _name_owner(*, request: HttpRequest | None, user: Any, **_: object) -> None:
    """Make the log-in that `login()` has just written a `log_in`, with all that the session holds.

    Where that fails, or meets the end of all sessions of the user, nobody is logged in.
    """
    session = None if request is None else found_session(request)
    held = None if session is None else session.stored.session
    # Others give the signal too, who log in by a token and write to no session.
    if session is None or held is None or held.get(SESSION_KEY) != str(user.pk):
        return
    is_logged_in = False
    try:
        is_logged_in = session.run(lambda: session.stored.replace({**held}, held[SESSION_KEY]))
    finally:
        if not is_logged_in:
            # Late, for it is a model's module.
            from django.contrib.auth.models import AnonymousUser

            for key in (SESSION_KEY, BACKEND_SESSION_KEY, HASH_SESSION_KEY):
                held.pop(key, None)

            async def nobody() -> AnonymousUser:
                return AnonymousUser()

            # From Django 6.0 on the awaited log-in has said it in both.
            for name, value in (("user", AnonymousUser()), ("auser", nobody)):
                if hasattr(request, name):
                    setattr(request, name, value)
