"""Which session a request has: its credentials, what the store says of them, and the state that follows.

The lowest of the three layers of a `StoredSession`. It asks the store, and writes nothing but a stamp.
"""

import enum
from collections.abc import Callable, Sequence
from typing import Final

from server_session import _record as record
from server_session._cookies import RequestFacts
from server_session._policy import Policy
from server_session._readers import Reader
from server_session._record import DIGEST, ENDED, OWNER, STAMP
from server_session._signals import Event
from server_session._tokens import Credential, short_digest
from server_session.exceptions import NoResponseError, ResponseStartedError, StoreError
from server_session.kernel.adoption import find_offer, take
from server_session.kernel.mapping import Session
from server_session.kernel.states import AFTER, LIVE, NONE, UNASKED, Finding, State
from server_session.stores._base import APPLIED, CONFLICT, MISSING, Fields, Outcome

__all__ = ["Presence", "ResponseState"]

_SEEN_SECONDS: Final = 60.0
_NO_SESSION: Final = (Finding.GONE, Finding.FOREIGN)


class ResponseState(enum.Enum):
    """Whether a cookie can still reach the browser."""

    OPEN = "open"
    ABSENT = "absent"
    STARTED = "started"


class Presence:
    """One request's knowledge of its session.

    `accessed` tells whether anything was asked or written, `changes_cookie` whether the response must set or expire the
    cookie, `session` is the mapping if it was loaded, and `created` whether this request founded the session that it
    has.
    """

    state: State = NONE
    session: Session | None = None
    accessed = changes_cookie = created = was_interrupted = False
    adopted: Reader | None = None
    """The reader of the other library's session whose place this request's has taken."""
    _credential: Credential | None = None
    # The record of the credential, as this request last saw or wrote it. Its `LIFE` holds as long as the credential.
    _seen: Fields | None = None
    _seen_live = _dropped = False
    # How many writes of this request have been answered.
    _writes = 0
    # The credential of a founding that is under way, or that was cancelled and may be stored; those that renewals swap
    # in stand in `_swapping`, by their digest.
    _founding: Credential | None = None
    _cookie_seconds: float | None = None
    # The readers of those other libraries whose cookies the request brought.
    _other_readers: Sequence[Reader] = ()

    def __init__(
        self,
        policy: Policy,
        presented: Sequence[Credential],
        response: ResponseState = ResponseState.ABSENT,
        request: RequestFacts | None = None,
        is_withheld: Callable[[], bool] | None = None,
    ) -> None:
        self._policy = policy
        self._store = policy.store
        self._request = request
        self._is_withheld = is_withheld
        self._presented = presented
        self._swapping: dict[bytes, Credential] = {}
        self.response = response
        self.has_cookie = bool(presented)
        """Whether the request brought a well-formed cookie, or another library's."""
        # Several different cookies of the name, or another library's alone: one is chosen before anything is asked.
        self._is_ambiguous = bool(presented[1:])
        if presented:
            self._credential = presented[0]
            self.state = UNASKED
        if policy.adopt and request is not None:
            self._other_readers = [reader for reader in policy.adopt if reader.cookie.is_present(request)]
            if self._other_readers and not presented:
                self.state, self.has_cookie, self._is_ambiguous = UNASKED, True, True

    @property
    def credential(self) -> Credential | None:
        """The credential of the session, or the one that is not yet looked up; `None` where there is no session."""
        return self._credential if self.state is LIVE or self.state is UNASKED else None

    @property
    def cookie_value(self) -> str | None:
        """What the cookie is set to, if the response changes it; `None` expires it."""
        return None if self._credential is None else self._credential.value

    @property
    def cookie_seconds(self) -> float | None:
        """For how many seconds the browser keeps the cookie; 0 is until it closes, `None` as the transport has it."""
        if self._seen is None or record.LIFE not in self._seen:
            return self._cookie_seconds
        life = record.life_of(self._seen)
        if life.persistent is None:
            return self._cookie_seconds
        idle, remaining = self._policy.lifetime_of(life, self._age(self._seen))
        # To the deadline, so that it need not be sent again while the session slides.
        return (idle if remaining is None else max(remaining, 1.0)) if life.persistent else 0.0

    def keep_cookie(self, seconds: float | None, *, again: bool) -> None:
        """Say for how many seconds the browser keeps the cookie: what a framework has for all of them.

        0 is until the browser closes, `None` as the transport has it. With `again` the cookie is set once more, if it
        is known to hold. What a renewal asked for this session takes precedence.
        """
        self._cookie_seconds = seconds
        # Not where several came: what is set replaces the cookie of one path and domain, and theirs may differ.
        if again and self.state is LIVE and len(self._presented) <= 1:
            self.accessed = self.changes_cookie = True

    async def is_alive(self) -> bool:
        """Ask the store whether the session lives, without a touch."""
        self.accessed = True
        if self._other_readers and self.state is UNASKED and self.response is not ResponseState.OPEN:
            # Another library's session, where it cannot be taken over, is none here yet.
            return [(await self._find(one))[0] for one in self._presented].count(Finding.HELD) == 1
        return await self._look(touch=False) is not None

    async def living_selector(self) -> str | None:
        """Return the selector of the session, if it lives."""
        return self._credential.selector if await self.is_alive() and self._credential else None

    # --- asking

    async def _look(self, *, touch: bool = True, to_write: bool = False) -> Fields | None:
        """Return the record of the session, `None` where there is none; a read of an owner's is noted in it."""
        if self.was_interrupted:
            await self._recover()
        if self._is_ambiguous:
            await self._choose()
        while (credential := self._credential) is not None and (self.state is LIVE or self.state is UNASKED):
            written = self._writes
            answer = await self._store.get(credential.selector, credential.expect(), touch)
            if answer is MISSING or answer is CONFLICT:
                await self._learn(credential, answer)
                continue
            if self._writes != written or self._credential is not credential:
                # Another call of this request has written meanwhile, and the answer may be from before that.
                continue
            if self.state is UNASKED:
                self._move(Finding.HELD)
            self._seen = answer
            return await self._note_read(credential, answer) if OWNER in answer and touch and not to_write else answer
        return None

    async def _note_read(self, credential: Credential, fields: Fields) -> Fields:
        """Renew the stamp of an owner's session after a read, once a minute: it tells when the session was seen."""
        seen, now = record.stamped_at(fields), self._policy.now()
        if seen is not None and abs(now - seen) <= _SEEN_SECONDS:
            return fields
        stamp = {STAMP: record.fresh_stamp(now)}
        expect = {STAMP: fields.get(STAMP), **credential.expect()}
        try:
            outcome = await self._store.merge(credential.selector, stamp, (), expect)
        except StoreError:
            # The read is what was asked for, and it was made.
            return fields
        return {**fields, **stamp} if outcome is APPLIED else fields

    # --- what an answer means

    async def _learn(self, credential: Credential, outcome: Outcome) -> None:
        """Find out what it means that the session is not as expected."""
        if self._credential is not credential:
            return
        finding, fields = (Finding.GONE, {}) if outcome is MISSING else await self._find(credential)
        if self._credential is not credential or (self.state, Finding.GONE) not in AFTER:
            # Another call of this request has learnt it, or gone on, meanwhile.
            return
        if finding is Finding.HELD:
            raise StoreError("the store said CONFLICT to an expectation that its record meets")
        if (swapped := self._swapping.get(fields.get(DIGEST, b""))) is not None:
            # A renewal of this very request, applied and not yet heard of.
            self._go_on_with(swapped, fields, Finding.RECOVERED)
            return
        if self._other_readers and self.state is UNASKED and finding in _NO_SESSION and await self._adopt():
            return
        event = self._move(finding)
        self._seen = None
        self._signal(event, credential)

    async def _find(self, credential: Credential) -> tuple[Finding, Fields]:
        """Look at the record that a credential names, without a touch, whether it opens it or not."""
        fields = await self._store.get(credential.selector, {}, False)
        if isinstance(fields, Outcome):
            return Finding.GONE, {}
        if ENDED in fields:
            return Finding.ENDED, fields
        if all(fields.get(name) == value for name, value in credential.expect().items()):
            return Finding.HELD, fields
        was_swapped = DIGEST in fields and record.was_former(fields, credential.digest(), self._policy.now())
        return Finding.SWAPPED if was_swapped else Finding.FOREIGN, fields

    def _move(self, finding: Finding) -> Event | None:
        self.state, event = AFTER[self.state, finding]
        self._seen_live |= self.state is LIVE
        return event

    def _go_on_with(self, credential: Credential, fields: Fields | None, finding: Finding) -> None:
        """Go on with a credential that this request made, and that the browser is to be given."""
        self._founding = None
        event = self._move(finding)
        self.created = finding is Finding.FOUNDED or (self.created and finding is Finding.RENEWED)
        self._credential = credential
        self._is_ambiguous = False
        self._seen = fields
        self._dropped = False
        self.accessed = self.changes_cookie = True
        self._signal(event, credential)

    def _drop(self) -> bool:
        """Give up a write to a session that ended meanwhile: the first of a request is signalled and logged."""
        if not self._dropped and self._credential is not None:
            self._dropped = True
            self._signal("write_dropped", self._credential)
        return False

    # --- several cookies of the name, and calls that were cancelled

    async def _choose(self) -> None:
        """Choose among several cookies the one that lives, if one does."""
        if self._presented:
            self._signal("several_cookies", self._presented[0])
        found = [((await self._find(one))[0], one) for one in self._presented]
        if not self._is_ambiguous:
            # Another call of this request has chosen, or gone on, meanwhile.
            return
        living = [pair for pair in found if pair[0] is Finding.HELD]
        over = [pair for pair in found if pair[0] in (Finding.ENDED, Finding.SWAPPED)]
        if self._other_readers and not living and not over and await self._adopt():
            return
        self._is_ambiguous = False
        if len(living) == 1 or (over and not living):
            finding, self._credential = (living or over)[-1]
            self._move(finding)
        else:
            self._move(Finding.AMBIGUOUS)

    async def _adopt(self) -> bool:
        """Go on with the session that takes the place of another library's; return whether this request has gone on."""
        assert self._request is not None  # noqa: S101 - there its cookie was
        offer = await find_offer(self._policy, self._other_readers, self._request)
        # The browser may have withheld the cookie of a session here: nothing may replace that one.
        if offer is None or (self._is_withheld is not None and self._is_withheld()):
            return self.state is not UNASKED
        self._require_response()
        if (credential := await take(self._policy, offer)) is not None:
            finding, fields = await self._find(credential)
            if self.state is UNASKED:
                # As if the browser had brought it: other bearers of the old cookie get it too, so a log-in renews it.
                self._presented = (*self._presented, credential)
                self._credential, self._is_ambiguous = credential, False
                if finding is Finding.HELD:
                    self.adopted = offer.reader
                    self._go_on_with(credential, fields, Finding.ADOPTED)
                else:
                    self._move(finding)
        return self.state is not UNASKED

    async def _recover(self) -> None:
        """Learn what a cancelled call of this request did, so that the browser gets the cookie that holds."""
        # Once: a store that fails here too must not refuse what comes after.
        founding, self.was_interrupted = self._founding, False
        try:
            if founding is not None and self._credential is not founding:
                finding, fields = await self._find(founding)
                if finding is Finding.HELD:
                    self._go_on_with(founding, fields, Finding.RECOVERED)
            if self._swapping:
                await self._look(touch=False)
        except StoreError:
            raise
        except BaseException:
            self.was_interrupted = True
            raise
        self._founding = None
        self._swapping.clear()

    # --- the cookie

    @property
    def _is_unsent(self) -> bool:
        """Whether the credential is this request's own, which no browser has yet.

        To renew it again would protect nobody, and would lose the former digest, by which late writes are recognised.
        """
        return self.response is not ResponseState.STARTED and self._credential not in self._presented

    def _require_response(self) -> None:
        if self.response is ResponseState.STARTED:
            raise ResponseStartedError(
                "this write needs a new cookie, and the response has started: write before the first byte is sent "
                "(in a WebSocket: before accept)"
            )
        if self.response is ResponseState.ABSENT:
            raise NoResponseError(
                "this write needs a cookie, and there is no response to set it on: "
                "pass the response after the request, or let the application serve sessions "
                "(SessionMiddleware; in Flask ServerSession(app); in Django its line in MIDDLEWARE)"
            )

    @property
    def founded(self) -> float:
        """When the session was founded, in seconds since the epoch; now, where there is none."""
        seen = self._seen if self.state is LIVE else None
        return self._policy.now() if seen is None else record.time_of(seen, record.CREATED)

    def _age(self, fields: Fields) -> float:
        created = record.time_of(fields, record.CREATED)
        # The time was rounded, and a clock may be set back: a negative age would put the deadline off.
        return max(0.0, self._policy.now() - created)

    def _now(self) -> bytes:
        return record.number(self._policy.now())

    def _signal(self, event: Event | None, credential: Credential) -> None:
        signals = self._policy.signals
        if event is not None and signals.wants(event):
            signals.send(event, short_digest(credential.selector))
