"""A session that is opened by its id, the selector, where no request brought its cookie."""

from typing import Final

from server_session._policy import Policy
from server_session._record import CLAIM, ENDED, LONGEST
from server_session._tokens import Credential, is_selector
from server_session.kernel.states import LIVE, OVER
from server_session.kernel.stored import StoredSession
from server_session.stores._base import Expect, Fields

__all__ = ["SessionById"]

# Any session that has not ended. A list of an owner's sessions is none, nor is a claim of another library's session.
_LIVES: Final[Expect] = {ENDED: None, LONGEST: None, CLAIM: None}


class _Unproved(Credential):
    """A selector in a credential's place: whoever opens a session by its id has no verifier."""

    __slots__ = ()

    def expect(self) -> Expect:
        """Return what the record of every living session meets, whatever its digest."""
        return _LIVES


class SessionById(StoredSession):
    """One dealing with a session that somebody knows by its id. What is no id is no session."""

    def __init__(self, policy: Policy, selector: str) -> None:
        super().__init__(policy, ())
        # It was seen alive where its id was found: one that is not there has ended, and no write founds it.
        self.state = OVER
        if is_selector(selector):
            self._credential = _Unproved(selector, "")
            self.state = LIVE

    # The user is not there: a read does not restart the idle clock, and does not count as seeing the user.

    async def _look(self, *, touch: bool = True, to_write: bool = False) -> Fields | None:  # noqa: ARG002
        return await super()._look(touch=False, to_write=to_write)

    async def _note_read(self, credential: Credential, fields: Fields) -> Fields:  # noqa: ARG002
        return fields
