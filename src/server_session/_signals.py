"""What an operator may want to know: one log line and one callback for each event of a session's life."""

import logging
from collections.abc import Callable
from typing import Final, Literal, NamedTuple, Protocol, TypeAlias

from server_session._tokens import short_digest
from server_session.stores._base import SessionStore

Event: TypeAlias = Literal[
    "created",
    "adopted",
    "renewed",
    "destroyed",
    "expired",
    "unknown",
    "refused",
    "write_dropped",
    "several_cookies",
    "unreadable",
    "csrf_rejected",
]

_LOG: Final = logging.getLogger("server_session")

_LEVELS: Final[dict[Event, tuple[int, str]]] = {
    "created": (logging.DEBUG, "session created"),
    "adopted": (logging.INFO, "a session of another library was taken over"),
    "renewed": (logging.DEBUG, "session renewed: its cookie was replaced"),
    "destroyed": (logging.DEBUG, "session destroyed"),
    "expired": (logging.INFO, "a session that was seen alive is gone: expired, or lost by the store"),
    "unknown": (logging.INFO, "a cookie named no session: expired, forged, or lost by the store"),
    "refused": (logging.WARNING, "a cookie named a session, and its secret does not hold"),
    "write_dropped": (logging.WARNING, "a write was dropped: its session ended or was renewed meanwhile"),
    "several_cookies": (logging.WARNING, "a request brought several session cookies"),
    "unreadable": (logging.ERROR, "a stored record does not open: damaged, moved here, or sealed with another key"),
    "csrf_rejected": (logging.WARNING, "a request that another site may have forged"),
}


class Signal(NamedTuple):
    """Something that happened to a session."""

    event: Event
    session: str
    """A short digest of the session's selector, never the selector itself; `""` where no session is meant."""
    reason: str = ""
    """Why: the code of a rejection, or of what is wrong with a record, or the class of the reader that took over."""


class Telemetry(Protocol):
    """What measures sessions: calls to the store go through it, and it is told each event."""

    def over(self, store: SessionStore) -> SessionStore:
        """Return a store that measures the calls and makes them to this one."""
        ...

    def on_signal(self, signal: Signal) -> None:
        """Hear of an event."""
        ...


class Signals:
    """Sends each event to the logger `server_session` and to the callbacks."""

    def __init__(self, *callbacks: Callable[[Signal], None]) -> None:
        self._callbacks = callbacks

    def wants(self, event: Event) -> bool:
        """Tell whether anybody would hear of this event."""
        return bool(self._callbacks) or _LOG.isEnabledFor(_LEVELS[event][0])

    def unreadable(self, selector: str, reason: str, detail: str) -> None:
        """Tell of a record that cannot be decrypted; `reason` is a code, `detail` is for the log."""
        self.send("unreadable", short_digest(selector), reason, detail)

    def send(self, event: Event, session: str = "", reason: str = "", detail: str = "") -> None:
        """Tell of an event; `session` is a short digest, safe to keep, `reason` a code, `detail` is for the log."""
        level, message = _LEVELS[event]
        if _LOG.isEnabledFor(level):
            named = ": ".join(filter(None, (message, detail)))
            more = ", ".join(filter(None, (reason, session)))
            _LOG.log(level, "%s (%s)", named, more, extra={"event": event, "session": session, "reason": reason})
        for callback in self._callbacks:
            try:
                callback(Signal(event, session, reason))
            except Exception:  # noqa: BLE001 - an application's own function may raise anything
                # The event has taken place, and an observer's error neither undoes it nor keeps it from the others.
                _LOG.exception("on_signal failed for %r", event)
