"""What one request knows of its session: five states, and the table of every transition between them.

Everything that moves a request from one state to another is in `AFTER`.
"""

import enum
from collections.abc import Mapping
from typing import Final

from server_session._signals import Event

__all__ = ["AFTER", "LIVE", "NONE", "OVER", "REFUSED", "UNASKED", "Finding", "State"]


class State(enum.StrEnum):
    """What one request knows of its session."""

    NONE = "none"  # there is no session
    UNASKED = "unasked"  # a cookie that was not yet looked up
    LIVE = "live"  # the store holds the session, and the cookie's verifier holds
    REFUSED = "refused"  # the store holds a record, and the cookie's verifier does not hold
    OVER = "over"  # it ended, or its cookie was swapped, within the minute; or it went after this request saw it live


NONE: Final = State.NONE
UNASKED: Final = State.UNASKED
LIVE: Final = State.LIVE
REFUSED: Final = State.REFUSED
OVER: Final = State.OVER


class Finding(enum.StrEnum):
    """What came of a call to the store, or of a request's own deed."""

    HELD = "held"  # the record is there, and its digest is the cookie's
    GONE = "gone"  # there is no record
    ENDED = "ended"  # the mark of an ended session
    SWAPPED = "swapped"  # another digest, and the cookie's was swapped out within the minute
    FOREIGN = "foreign"  # another digest, and nothing is known of the cookie's
    AMBIGUOUS = "ambiguous"  # several cookies, of which not exactly one lives: nobody can say which of them is meant
    FOUNDED = "founded"  # this request founded the session
    ADOPTED = "adopted"  # it takes the place of another library's, whose cookie came
    RENEWED = "renewed"  # this request swapped its cookie
    RECOVERED = "recovered"  # a call of this request that was cancelled had founded it, or swapped its cookie
    DESTROYED = "destroyed"  # this request ended it


# What is not here cannot happen: nothing is asked about in NONE, REFUSED and OVER.
AFTER: Final[Mapping[tuple[State, Finding], tuple[State, Event | None]]] = {
    (UNASKED, Finding.HELD): (LIVE, None),
    (UNASKED, Finding.GONE): (NONE, "unknown"),
    (UNASKED, Finding.ENDED): (OVER, None),
    (UNASKED, Finding.SWAPPED): (OVER, None),
    (UNASKED, Finding.FOREIGN): (REFUSED, "refused"),
    (UNASKED, Finding.AMBIGUOUS): (NONE, None),
    (UNASKED, Finding.ADOPTED): (LIVE, None),
    (LIVE, Finding.HELD): (LIVE, None),
    (LIVE, Finding.GONE): (OVER, "expired"),
    (LIVE, Finding.ENDED): (OVER, None),
    (LIVE, Finding.SWAPPED): (OVER, None),
    (LIVE, Finding.FOREIGN): (OVER, None),
    **{(state, Finding.FOUNDED): (LIVE, "created") for state in State},
    **{(state, Finding.RENEWED): (LIVE, "renewed") for state in State},
    **{(state, Finding.RECOVERED): (LIVE, None) for state in State},
    **{(state, Finding.DESTROYED): (NONE, "destroyed") for state in State},
}
