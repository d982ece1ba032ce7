"""Visitors, a thief and an administrator at one site, against a small model of what the design promises.

The visitors have browsers, whose tabs share a cookie; requests are held open and go on later. The thief has a copy of
every cookie there ever was, and makes up others. Time jumps. After every step the store holds what the model says.

Over a store that fails, before a call or after it, visitors are told 503, and some hang up. Of a step of which nobody
heard each record is as it was, or as the step would have left it, and nothing else has changed.
"""

import asyncio
import copy
import enum
import itertools
import string
import tempfile
from collections.abc import Callable, Collection, Coroutine, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, ClassVar, NamedTuple
from unittest import mock
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from server_session import (
    MISSING,
    MemorySessionStore,
    NotFreshError,
    ResponseStartedError,
    StoreDownError,
    StoreError,
)
from server_session._codec import decode_fields
from server_session._colour import Colour, drive
from server_session._owners import OwnerIndex, _listed
from server_session._policy import Policy
from server_session._record import (
    AS_CONFIGURED,
    AUTHENTICATED,
    DIGEST,
    ENDED,
    OWNER,
    Life,
    outstanding_of,
    time_of,
    user_fields,
)
from server_session._tokens import Credential, TokenState, issue_token, junk_token, read_token
from server_session.kernel import stored
from server_session.kernel.presence import ResponseState
from server_session.kernel.stored import StoredSession
from server_session.stores._base import Fields, Outcome, SessionStore
from server_session.stores._circuit import CircuitStore
from server_session.stores._over import StoreOver
from server_session.stores.redis import RedisSessionStore
from server_session.stores.sql import SQLSessionStore
from server_session.testing import YieldingStore
from tests.faults.proxy import Proxy, Weather
from tests.parts import ALL
from tests.patience import PATIENCE, wait_until
from tests.servers import Server
from tests.visitors import EVERY_STORE, Browser, Clock, Site, make_store

IDLE, ABSOLUTE, MINUTE = 1000, 4000, 60
BASE64URL = string.ascii_letters + string.digits + "-_"
TOKENS_AT_MOST = 3

# --- the model


class Standing(enum.Enum):
    """How a request's cookie stands."""

    LIVE = "live"
    OVER = "over"
    REFUSED = "refused"
    NONE = "none"


class RefusedError(Exception):
    """The design says that this raises, and that nothing is written."""

    def __init__(self, error: type[Exception]) -> None:
        super().__init__(error.__name__)
        self.error = error


class Kept(enum.Enum):
    KEPT = "kept"


KEPT: Any = Kept.KEPT
"""The response says nothing of the cookie."""


@dataclass
class Session:
    """A session that was founded, for as long as the model lasts."""

    cookie: str
    data: dict[str, Any]
    created: float
    life: Life
    idle: float
    deadline: float
    expires: float
    surely: float
    """Until when it lives at least: a store may leave out a touch that is worth less than a tenth of the idle time."""
    owner: str | None = None
    authenticated: float | None = None
    former: str | None = None
    swapped: float = 0.0
    ended: float | None = None
    outstanding: list[str] = field(default_factory=list)

    @property
    def id(self) -> str:
        return self.cookie[:24]


@dataclass
class Request:
    """What the model knows of a request."""

    presented: tuple[str, ...]
    cookie: str | None = None
    standing: Standing | None = None
    """What it learnt that does not change: anything but LIVE."""
    seen: bool = False
    """Whether it saw the session alive."""
    started: bool = False
    view: dict[str, Any] | None = None
    sets: Any = KEPT
    passed: set[str] = field(default_factory=set)

    @property
    def is_unheard(self) -> bool:
        return not self.started and self.cookie not in self.presented


class Issued(NamedTuple):
    """A token that was given out."""

    cookie: str
    scope: str
    time: float


class News(NamedTuple):
    """What the model cannot foresee, for it is random: the cookie that came, the token, which marks were made."""

    got: Any
    cookie: Any
    marked: Collection[str] = ()


@dataclass
class World:
    """Everything that is promised to be so."""

    absolute: float | None = ABSOLUTE
    most: int | None = None
    single_use: bool = False
    token_age: float | None = None
    now: float = 0.0
    sessions: dict[str, Session] = field(default_factory=dict)
    tokens: dict[str, Issued] = field(default_factory=dict)
    cookies: list[str] = field(default_factory=list)
    """All there ever were, which the thief has copied."""
    reserved: dict[str, tuple[str, float]] = field(default_factory=dict)
    """Log-ins that failed when they were listed and not yet founded: for a minute they have their owner's place."""
    contended: str | None = None
    """The owner who logs in now while another log-in of theirs, or the end of all sessions, is under way."""

    # --- what holds now

    def lives(self, session: Session | None) -> bool:
        return session is not None and session.ended is None and self.now < session.expires

    def is_marked(self, session: Session | None) -> bool:
        return session is not None and session.ended is not None and self.now < session.ended + MINUTE

    def session_of(self, cookie: str | None) -> Session | None:
        """Return the session that lives and that this cookie opens."""
        session = self.sessions.get((cookie or "")[:24])
        return session if session is not None and self.lives(session) and session.cookie == cookie else None

    def successor_of(self, cookie: str | None) -> Session | None:
        """Return the session that lives and whose last swap, within the minute, took this cookie away."""
        session = self.sessions.get((cookie or "")[:24])
        is_former = session is not None and session.former == cookie and self.now < session.swapped + MINUTE
        return session if session is not None and self.lives(session) and is_former else None

    def living_of(self, owner: str) -> list[Session]:
        living = [one for one in self.sessions.values() if one.owner == owner and self.lives(one)]
        return sorted(living, key=lambda one: (one.created, one.id))

    def is_over(self, cookie: str | None) -> bool:
        return self.is_marked(self.sessions.get((cookie or "")[:24])) or self.successor_of(cookie) is not None

    def judge(self, request: Request) -> Standing:
        self._choose(request)
        if request.standing is not None:
            return request.standing
        if self.session_of(request.cookie) is not None:
            request.seen = True
            return Standing.LIVE
        if request.seen or self.is_over(request.cookie):
            request.standing = Standing.OVER
        else:
            there = self.lives(self.sessions.get((request.cookie or "")[:24]))
            request.standing = Standing.REFUSED if there else Standing.NONE
        return request.standing

    def _choose(self, request: Request) -> None:
        if request.standing is not None or request.seen or len(request.presented) < 2:
            return
        living = [cookie for cookie in request.presented if self.session_of(cookie) is not None]
        over = [cookie for cookie in request.presented if self.is_over(cookie)]
        if len(living) == 1:
            request.cookie, request.seen = living[0], True
        elif not living and over:
            request.cookie, request.standing = over[-1], Standing.OVER
        else:
            request.standing = Standing.NONE

    def _live(self, request: Request) -> Session | None:
        return self.session_of(request.cookie) if self.judge(request) is Standing.LIVE else None

    # --- what changes

    def _touch(self, session: Session) -> None:
        moved = min(self.now + session.idle, session.deadline)
        if moved > session.expires:
            session.expires = moved
            session.surely = max(session.surely, moved - session.idle / 10)

    def _give(self, session: Session, life: Life) -> None:
        session.life = life
        session.idle = IDLE if life.idle is None else life.idle
        absolute = self.absolute if life.absolute is None else life.absolute
        session.deadline = float("inf") if absolute is None else session.created + absolute
        session.expires = session.surely = min(self.now + session.idle, session.deadline)

    def _keep(self, cookie: Any) -> str:
        assert isinstance(cookie, str), "no cookie came"
        assert Credential.parse(cookie) is not None
        assert cookie not in self.cookies, "a cookie that there was"
        self.cookies.append(cookie)
        return cookie

    def _found(
        self,
        request: Request,
        news: News,
        data: dict[str, Any],
        *,
        life: Life = AS_CONFIGURED,
        owner: str | None = None,
        authenticated: bool = False,
    ) -> Session:
        if request.started:
            raise RefusedError(ResponseStartedError)
        cookie = self._keep(news.cookie)
        assert cookie[:24] not in self.sessions, "an id that there was"
        session = Session(cookie, dict(data), self.now, life, 0, 0, 0, 0, owner, self.now if authenticated else None)
        self._give(session, life)
        self.sessions[session.id] = session
        request.cookie = request.sets = cookie
        request.standing, request.seen = None, True
        return session

    def _end(self, session: Session) -> None:
        session.ended = self.now

    def _forget(self, request: Request, session: Session) -> bool:
        self._end(session)
        request.cookie, request.standing, request.sets = None, Standing.NONE, None
        return True

    def _found_anew(
        self, request: Request, news: News, data: dict[str, Any], owner: str | None = None, *, authenticated: bool
    ) -> bool:
        if request.started:
            raise RefusedError(ResponseStartedError)
        self._choose(request)
        standing = self.judge(request)
        before = self.session_of(request.cookie) or self.successor_of(request.cookie)
        if standing not in (Standing.LIVE, Standing.OVER):
            before = None
        if owner is not None and self.most is not None:
            others = [(one.created, one.id) for one in self.living_of(owner) if one is not before]
            reserved = [(since, key) for key, (whose, since) in self.reserved.items() if whose == owner]
            others = sorted(others + [one for one in reserved if self.now < one[0] + MINUTE])
            excess = [key for _, key in others[: max(0, len(others) + 1 - self.most)]]
            for key in excess:
                if self.reserved.pop(key, None) is None:
                    self._end(self.sessions[key])
        if owner is not None and owner == self.contended and news.got is False:
            # The other has ended it before it was founded: it needed the place, or ended all.
            return False
        self._found(request, news, data, owner=owner, authenticated=authenticated)
        if before is not None:
            self._end(before)
        if request.view is not None:
            request.view = dict(data)
        return True

    # --- what each of the functions does and returns

    def get(self, request: Request, _: News) -> dict[str, Any]:
        session = self._live(request)
        if session is not None:
            self._touch(session)
        data = {} if session is None else copy.deepcopy(session.data)
        if request.view is not None:
            request.view = copy.deepcopy(data)
        return data

    def set(self, request: Request, news: News, data: dict[str, Any]) -> bool:
        applied = self._merge(request, news, data, set())
        if applied and request.view is not None:
            request.view.update(data)
        return applied

    def _merge(
        self,
        request: Request,
        news: News,
        data: dict[str, Any],
        removed: Collection[str],
        *,
        log_in: bool | None = None,
    ) -> bool:
        session = self._live(request)
        if session is not None:
            self._write(session, data, removed, log_in=log_in)
            return True
        if request.standing is Standing.OVER:
            return False
        if data:
            self._found(request, news, data, authenticated=bool(log_in))
        return True

    def _write(
        self, session: Session, data: dict[str, Any], removed: Collection[str], *, log_in: bool | None = None
    ) -> None:
        self._take_mark(session, data)
        session.data.update(copy.deepcopy(data))
        for name in removed:
            session.data.pop(name, None)
        if log_in is not None:
            session.authenticated = self.now if log_in else None
        self._touch(session)

    def _take_mark(self, session: Session, written: dict[str, Any]) -> None:
        was = session.data.get("user")
        if "user" in written and (written["user"] is None or was not in (None, written["user"])):
            # Whoever comes next has proved nothing.
            session.authenticated = None

    def _rewrite(self, session: Session, data: dict[str, Any], *, whole: bool = False) -> None:
        if "user" in session.data and "user" not in data:
            session.authenticated = None
        was = session.data
        self._take_mark(session, data if whole else {name: one for name, one in data.items() if was.get(name) != one})
        session.data = data
        self._touch(session)

    def update(self, request: Request, news: News, change: Callable[[dict[str, Any]], None]) -> bool:
        session = self._live(request)
        if request.standing is Standing.OVER:
            return False
        before = {} if session is None else session.data
        data = copy.deepcopy(before)
        change(data)
        if session is not None:
            self._rewrite(session, data)
        elif data:
            self._found(request, news, data)
        if request.view is not None:
            request.view = copy.deepcopy(data)
        return True

    def pluck(self, request: Request, _: News, name: str) -> Any:
        session = self._live(request)
        if request.standing is Standing.OVER:
            # What the mapping holds stays, as at every write that comes too late.
            return None
        value = None if session is None else session.data.get(name)
        if session is not None:
            self._rewrite(session, {key: one for key, one in session.data.items() if key != name})
        if request.view is not None:
            request.view = {} if session is None else copy.deepcopy(session.data)
        return value

    def replace(self, request: Request, news: News, data: dict[str, Any]) -> bool:
        return self._found_anew(request, news, data, authenticated=data.get("user") is not None)

    def log_in(self, request: Request, news: News, owner: str, data: dict[str, Any]) -> bool:
        return self._found_anew(request, news, data, owner, authenticated=True)

    def replace_in_place(self, request: Request, news: News, data: dict[str, Any]) -> bool:
        session = self._live(request)
        if request.standing is Standing.OVER:
            return False
        if session is not None:
            self._rewrite(session, dict(data), whole=True)
        else:
            self._found(request, news, data)
        if request.view is not None:
            request.view = dict(data)
        return True

    def renew(
        self, request: Request, news: News, data: dict[str, Any] | None, asked: Life, authenticated: bool
    ) -> bool:
        applied = self._renew(request, news, data, (), asked, log_in=True if authenticated else None)
        if applied and data and request.view is not None:
            request.view.update(data)
        return applied

    def _renew(
        self,
        request: Request,
        news: News,
        data: dict[str, Any] | None,
        removed: Collection[str],
        asked: Life = AS_CONFIGURED,
        *,
        log_in: bool | None = None,
    ) -> bool:
        was_over = request.standing is Standing.OVER
        session = self._live(request)
        if session is None:
            if request.started and news.got is ResponseStartedError:
                # It need not ask first whether there is anything to renew.
                raise RefusedError(ResponseStartedError)
            # A browser that lost the answer of its first log-in comes with the cookie from before it.
            is_late = request.standing is Standing.OVER and (request.seen or data is None)
            if not is_late and data is not None:
                self._found(request, news, data, life=asked, authenticated=bool(log_in))
                return True
            if is_late and not was_over and asked.absolute is not None and news.cookie is None:
                # It asked for an age that it has passed, before it heard that it is over.
                return self.destroy(request, news) and False
            return False
        if request.started:
            raise RefusedError(ResponseStartedError)
        life = session.life.then(asked)
        if asked.idle is not None or asked.absolute is not None:
            absolute = self.absolute if life.absolute is None else life.absolute
            if absolute is not None and session.created + absolute <= self.now:
                return self.destroy(request, news) and False
        cookie = self._keep(news.cookie)
        assert cookie[:24] == session.id, "a renewal keeps the id"
        if not request.is_unheard:
            session.former, session.swapped = session.cookie, self.now
        session.cookie = request.cookie = request.sets = cookie
        self._write(session, data or {}, removed, log_in=log_in)
        if asked.idle is not None or asked.absolute is not None:
            self._give(session, life)
        session.life = life
        return True

    def destroy(self, request: Request, _: News) -> bool:
        if request.view is not None:
            request.view = {}
        session = self._live(request)
        if request.standing is Standing.OVER:
            session = self.successor_of(request.cookie)
        if session is not None:
            return self._forget(request, session)
        if request.standing is Standing.NONE and request.presented and request.cookie is not None:
            request.sets = None
        return False

    def mapping(self, request: Request, news: News, edits: list["Edit"]) -> tuple[dict[str, Any], bool]:
        if request.view is None:
            session = self._live(request)
            request.view = {} if session is None else copy.deepcopy(session.data)
            if session is not None:
                self._touch(session)
        before = request.view
        after = copy.deepcopy(before)
        assigned = edit(after, edits)
        if any(one.how == "clear" for one in edits):
            # No write to a mapping that was cleared sees what was there.
            if not after:
                self.destroy(request, news)
                return {}, True
            self._found_anew(request, news, after, authenticated=after.get("user") is not None)
            request.view = after
            return copy.deepcopy(after), True
        changed = {name: value for name, value in after.items() if name not in before or before[name] != value}
        removed = before.keys() - after.keys()
        if not changed and not removed:
            return after, True
        assigned &= changed.keys()
        log_in = None
        if "user" in assigned or "user" in removed:
            log_in = changed.get("user") is not None
        if "user" in assigned and not request.is_unheard:
            applied = self._renew(request, news, changed, removed, log_in=log_in)
        else:
            applied = self._merge(request, news, changed, removed, log_in=log_in)
        request.view = after
        return copy.deepcopy(after), applied

    def csrf_token(self, request: Request, news: News, scope: str) -> str:
        session = self._live(request)
        if session is None and request.standing is not Standing.OVER:
            session = self._found(request, news, {})
        assert isinstance(news.got, str)
        if session is not None:
            self._touch(session)
            assert news.got not in self.tokens
            self.tokens[news.got] = Issued(session.cookie, scope, self.now)
            if self.single_use:
                session.outstanding = [*session.outstanding, news.got][-TOKENS_AT_MOST:]
        return news.got

    def has_csrf_token(self, request: Request, _: News, text: str, scope: str) -> bool:
        return self._weigh(request, text, (scope,)) is TokenState.VALID

    def admit(self, request: Request, news: News, text: str, scope: str) -> TokenState:
        state = self._weigh(request, text, ("", scope), load=True)
        if state is TokenState.VALID:
            request.passed.add(text)
        # What it is told of a token that does not hold is for the script that asks for a fresh one.
        if state is TokenState.INVALID and news.got in (TokenState.STALE, TokenState.USED):
            state = news.got
        return state

    def _weigh(self, request: Request, text: str, scopes: Collection[str], *, load: bool = False) -> TokenState:
        if len(text) != 70:
            return TokenState.INVALID
        issued = self.tokens.get(text)
        self._choose(request)
        if issued is not None and issued.scope == "" and issued.cookie == request.cookie and "" not in scopes:
            # No call to the store: a fresh one would not do either.
            return TokenState.INVALID
        session = self._live(request)
        if issued is None or session is None or issued.cookie != request.cookie or issued.scope not in scopes:
            return TokenState.INVALID
        self._touch(session)
        if load and request.view is None:
            request.view = copy.deepcopy(session.data)
        if self.token_age is not None and self.now - issued.time > self.token_age:
            return TokenState.STALE
        if self.single_use and text not in request.passed:
            if text not in session.outstanding:
                return TokenState.USED
            session.outstanding = [one for one in session.outstanding if one != text]
        return TokenState.VALID

    def require_fresh(self, request: Request, _: News, seconds: float) -> None:
        session = self._live(request)
        if session is not None:
            self._touch(session)
        since = None if session is None else session.authenticated
        if since is None or self.now - since > seconds:
            raise RefusedError(NotFreshError)

    def is_alive(self, request: Request, _: News) -> bool:
        return self._live(request) is not None

    def sessions_of(self, request: Request, _: News, owner: str) -> list[tuple[str, float, bool]]:
        current = self._live(request)
        return [(one.id, one.created, one is current) for one in self.living_of(owner)]

    def destroy_sessions_of(
        self, request: Request, news: News, owner: str, only: str | None, spares_its_own: bool
    ) -> int:
        kept = self._live(request) if spares_its_own else None
        for key in [key for key, (whose, _) in self.reserved.items() if whose == owner and only in (None, key)]:
            del self.reserved[key]
        ending = [one for one in self.living_of(owner) if one is not kept and only in (None, one.id)]
        for one in ending:
            self._end(one)
        # Who is listed and gone gets the mark too: a log-in that is under way must meet it.
        for one in self.sessions.values():
            if one.owner == owner and not self.lives(one) and not self.is_marked(one) and one.id in news.marked:
                self._end(one)
        return len(ending)


class Edit(NamedTuple):
    """Something that is done to a mapping."""

    how: str
    name: str = ""
    value: Any = None


def edit(data: dict[str, Any], edits: list[Edit]) -> set[str]:
    """Do it, and return the names to which a value was assigned."""
    assigned: set[str] = set()
    for how, name, value in edits:
        if how == "clear":
            data.clear()
            assigned.clear()
        elif how == "drop":
            data.pop(name, None)
            assigned.discard(name)
        elif how == "put":
            data[name] = copy.deepcopy(value)
            assigned.add(name)
        elif isinstance(data.get(name), list):
            data[name].append(value)
    return assigned


def count(data: dict[str, Any]) -> None:
    data["n"] = data.get("n", 0) + 1


def shorten(data: dict[str, Any]) -> None:
    for name in sorted(data)[:1]:
        del data[name]


def look_on(data: dict[str, Any]) -> None:
    len(data)


# --- the site


@dataclass
class Shop(Site):
    """A site with more settings."""

    more: dict[str, Any] = field(default_factory=dict)

    @property
    def policy(self) -> Policy:
        return super().policy._replace(**self.more)


class Calls:
    """The calls of the library that the moves of the model stand for."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    async def get(self, visit: StoredSession) -> Any:
        return await visit.get()

    async def set(self, visit: StoredSession, data: dict[str, Any]) -> Any:
        return await visit.merge(data)

    async def update(self, visit: StoredSession, change: Callable[[dict[str, Any]], None]) -> Any:
        return await visit.update(change)

    async def pluck(self, visit: StoredSession, name: str) -> Any:
        return await visit.pluck(name)

    async def replace(self, visit: StoredSession, data: dict[str, Any]) -> Any:
        return await visit.replace(data)

    async def replace_in_place(self, visit: StoredSession, data: dict[str, Any]) -> Any:
        return await visit.replace(data, in_place=True)

    async def log_in(self, visit: StoredSession, owner: str, data: dict[str, Any]) -> Any:
        return await visit.replace(data, owner)

    async def renew(self, visit: StoredSession, data: dict[str, Any] | None, asked: Life, authenticated: bool) -> Any:
        return await visit.renew(data, asked, authenticated=authenticated)

    async def destroy(self, visit: StoredSession) -> Any:
        return await visit.destroy()

    async def mapping(self, visit: StoredSession, edits: list[Edit]) -> Any:
        session = await visit.load()
        edit(session, edits)
        applied = await visit.commit()
        return dict(session), applied

    async def csrf_token(self, visit: StoredSession, scope: str) -> Any:
        return await visit.csrf_token(scope)

    async def has_csrf_token(self, visit: StoredSession, text: str, scope: str) -> Any:
        return await visit.has_csrf_token(text, scope)

    async def admit(self, visit: StoredSession, text: str, scope: str) -> Any:
        return await visit.admit(text, ("", scope))

    async def require_fresh(self, visit: StoredSession, seconds: float) -> Any:
        return await visit.require_fresh(seconds)

    async def is_alive(self, visit: StoredSession) -> Any:
        return await visit.is_alive()

    async def sessions_of(self, visit: StoredSession, owner: str) -> Any:
        current = await visit.living_selector()
        listed = await OwnerIndex(self.policy, owner).sessions(current)
        return [(one.id, one.created.timestamp(), one.is_current) for one in listed]

    async def destroy_sessions_of(
        self, visit: StoredSession, owner: str, only: str | None, spares_its_own: bool
    ) -> Any:
        kept = await visit.living_selector() if spares_its_own else None
        return await OwnerIndex(self.policy, owner).destroy(only=only, but=kept)


DESIGNED = (NotFreshError, ResponseStartedError)


class Who(NamedTuple):
    """Who makes a step: a browser by a request of its own, a request that was held open, or the thief."""

    kind: str
    which: int = 0


class Move(NamedTuple):
    """A call, and what it is given."""

    name: str
    given: tuple[Any, ...] = ()


class Sent(NamedTuple):
    """A token that is sent: which of those that were given out, to the session or to anyone, and how it is altered."""

    which: int
    alteration: str
    is_own: bool


VALUES = st.sampled_from([0, 1, "x", None]) | st.lists(st.just(1), max_size=1)
DATA = st.dictionaries(st.sampled_from("abn"), VALUES, max_size=2).map(
    # A counter counts.
    lambda data: {name: 0 if name == "n" else value for name, value in data.items()}
)
USERS = st.sampled_from(["ada", "bob", None])
WITH_USER = DATA | st.builds(lambda data, user: {**data, "user": user}, DATA, USERS)
NAMES = st.sampled_from(["a", "b", "n", "user"])
OWNERS = st.integers(0, 1)
SCOPES = st.sampled_from(["", "POST /pay", "POST /leave"])
LIVES = st.sampled_from(
    [
        Life(),
        Life(),
        Life(persistent=True),
        Life(idle=100),
        Life(idle=6000, absolute=50_000, persistent=True),
        Life(absolute=300),
        Life(persistent=False),
    ]
)
EDITS = st.lists(
    st.builds(Edit, st.just("put"), st.sampled_from("ab"), VALUES)
    | st.builds(Edit, st.just("put"), st.just("user"), USERS)
    | st.builds(Edit, st.just("drop"), NAMES, st.none())
    | st.builds(Edit, st.just("append"), NAMES, st.just(2))
    | st.just(Edit("clear")),
    max_size=3,
)
ALTERATIONS = ["whole", "whole", "whole", "whole", "cut", "padded", "other time", "half", "none"]
TOKENS = st.builds(Sent, st.sampled_from([0, 0, 0, 1, 2, 3, 6]), st.sampled_from(ALTERATIONS), st.booleans())

MOVES: dict[str, st.SearchStrategy[Move]] = {
    name: st.tuples(*given).map(partial(Move, name))
    for name, given in {
        "get": (),
        "set": (WITH_USER,),
        "update": (st.sampled_from([count, shorten, look_on]),),
        "pluck": (NAMES,),
        "replace": (WITH_USER,),
        "replace_in_place": (WITH_USER,),
        "log_in": (OWNERS, WITH_USER),
        "renew": (st.none() | WITH_USER.filter(bool), LIVES, st.booleans()),
        "destroy": (),
        "mapping": (EDITS,),
        "csrf_token": (SCOPES,),
        "has_csrf_token": (TOKENS, st.none() | SCOPES),
        "admit": (TOKENS, st.none() | SCOPES),
        "require_fresh": (st.sampled_from([10, 60, 500]),),
        "is_alive": (),
        "sessions_of": (OWNERS,),
        "destroy_sessions_of": (OWNERS, st.none() | st.integers(0, 2), st.booleans()),
    }.items()
}
ANY_MOVE = st.one_of(*MOVES.values())
READS = st.sampled_from(["get", "is_alive", "require_fresh"]).flatmap(MOVES.__getitem__)
WRITES = st.sampled_from(["set", "update", "pluck", "replace_in_place", "mapping"]).flatmap(MOVES.__getitem__)
PASSAGES = st.sampled_from(["replace", "log_in", "renew", "destroy", "mapping"]).flatmap(MOVES.__getitem__)

AT_ONE_KEY = st.sampled_from(
    [Move("update", (count,)), Move("pluck", ("n",)), Move("set", ({"n": 5},)), Move("replace_in_place", ({"n": 7},))]
)

BROWSERS = st.builds(Who, st.just("browser"), st.integers(0, 1))
HELD = st.builds(Who, st.just("held"), st.integers(0, 3))
THIEF = st.builds(
    Who, st.sampled_from(["copy", "copy", "junk verifier", "forged", "other selector"]), st.integers(0, 9)
)
VISITORS = BROWSERS | HELD | HELD
ANYONE = BROWSERS | HELD | THIEF


class Machine(RuleBasedStateMachine):
    """The site over one store, and everybody at it."""

    kind: ClassVar[str]
    clock_moves: ClassVar[bool] = True
    spare = 0
    """How many sessions of an owner may live beyond what is allowed, until the next log-in."""

    def __init__(self) -> None:
        super().__init__()
        self.ends = ExitStack()
        self.ends.enter_context(mock.patch.object(stored, "_OUTSTANDING_AT_MOST", TOKENS_AT_MOST))
        self.clock = Clock()
        self.schedule: list[int] = []
        self.store = self.make_store()
        self.used = self.stand_before(self.store)
        # By its selector a log-in may look at others of its owner: the same steps are to take the same calls again.
        ours, chance = SessionStore.id(self.store)[:12], Random(0)

        def selector(_: SessionStore) -> str:
            return ours + "".join(chance.choices(BASE64URL, k=12))

        self.ends.enter_context(mock.patch.object(SessionStore, "id", selector))
        self.awaits = self.used.colour is Colour.AWAITS
        self.runner = self.ends.enter_context(asyncio.Runner()) if self.awaits else None
        # A server is there for many machines.
        self.owners = [f"{name} {uuid4()}" for name in ("ada", "bob")]
        self.settle({}, World())

    def make_store(self) -> SessionStore:
        directory = self.ends.enter_context(tempfile.TemporaryDirectory())
        return make_store(self.kind, Path(directory), self.clock)

    def stand_before(self, store: SessionStore) -> SessionStore:
        """Return the store that the site uses: what it holds is looked at past it."""
        return store

    def settle(self, more: dict[str, Any], world: World) -> None:
        absolute = world.absolute
        self.site = Shop(self.used, self.clock, idle=IDLE, absolute=absolute, more=more)
        self.aside = self.site.with_store(self.store)
        self.calls = Calls(self.site.policy)
        self.world = replace(world, now=self.clock.time)
        self.browsers = [Browser(self.site), Browser(self.site)]
        self.held: list[tuple[Browser | None, StoredSession, Request]] = []

    def teardown(self) -> None:
        self.ends.close()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return drive(coroutine) if self.runner is None else self.runner.run(coroutine)

    # --- who

    def open(self, who: Who) -> tuple[Browser | None, StoredSession, Request]:
        kind, which = who
        if kind == "held" and self.held:
            return self.held[which % len(self.held)]
        if kind in ("browser", "held"):
            browser = self.browsers[which % len(self.browsers)]
            return browser, *self.arrive([] if browser.cookie is None else [browser.cookie])
        return None, *self.arrive([self.steal(kind, which)])

    def steal(self, kind: str, which: int) -> str:
        """Return a cookie of the thief's: a copy of what was one once, or one that he made up."""
        known = self.world.cookies[-1 - which % len(self.world.cookies)] if self.world.cookies else "x" * 64
        match kind:
            case "copy":
                return known
            case "junk verifier":
                return known[:24] + f"{which}" * 40
            case "other selector":
                return "B" * 24 + known[24:]
            case _:
                return f"{which}" * 64

    def arrive(self, cookies: list[str]) -> tuple[StoredSession, Request]:
        presented = list(dict.fromkeys(cookies))
        parsed = [credential for one in presented if (credential := Credential.parse(one))]
        assert len(parsed) == len(presented)
        request = Request(tuple(presented), presented[0] if presented else None)
        request.standing = None if presented else Standing.NONE
        return StoredSession(self.site.policy, parsed, ResponseState.OPEN), request

    def leave(self, browser: Browser | None, visit: StoredSession, request: Request) -> None:
        """Let the answer reach the browser, unless the request goes on."""
        if browser is not None and not any(visit is held for _, held, _ in self.held):
            browser.receive(visit)

    # --- steps

    def resolve(self, request: Request, move: Move) -> tuple[Any, ...]:
        """Return what a move is given, as it is now."""
        given = list(move.given)
        if move.name in ("log_in", "sessions_of", "destroy_sessions_of"):
            given[0] = self.owners[given[0]]
        if move.name in ("has_csrf_token", "admit"):
            given = self.token(request, *given)
        if move.name == "destroy_sessions_of" and given[1] is not None:
            ids = [one.id for one in self.world.sessions.values()] or ["A" * 24]
            given[1] = ids[-1 - given[1] % len(ids)]
        return tuple(given)

    def token(self, request: Request, sent: Sent, scope: str | None) -> list[str]:
        """Return a token, and the scope that it is sent for: its own for `None`."""
        issued = self.world.tokens
        texts = [text for text, one in issued.items() if not sent.is_own or one.cookie == request.cookie]
        texts = texts or list(issued) or ["A" * 70]
        text, other = (texts[-1 - which % len(texts)] for which in (sent.which, sent.which + 1))
        if scope is None:
            scope = issued[text].scope if text in issued else ""
        match sent.alteration:
            case "whole":
                return [text, scope]
            case "cut":
                return [text[:-1], scope]
            case "padded":
                return [text + "=", scope]
            case "other time":
                return [("B" if text[0] == "A" else "A") + text[1:], scope]
            case "half":
                return [text[:27] + other[27:], scope]
            case _:
                return ["A" * 70, scope]

    async def call(self, visit: StoredSession, move: Move, given: tuple[Any, ...]) -> Any:
        try:
            return await getattr(self.calls, move.name)(visit, *copy.deepcopy(given))
        except DESIGNED as error:
            return type(error)

    async def news(self, visit: StoredSession, got: Any) -> News:
        marked = []
        for one in self.world.sessions.values():
            if one.owner is not None and not self.world.lives(one):
                fields = await self.store.get(one.id, {}, False)
                if not isinstance(fields, Outcome) and ENDED in fields:
                    marked.append(one.id)
        return News(got, self.cookie_set_by(visit), marked)

    def step(self, who: Who, *moves: Move) -> None:
        browser, visit, request = self.open(who)
        for move in moves:
            if self.has_ended(visit, self.make(visit, request, move)):
                break
        self.leave(browser, visit, request)

    def has_ended(self, visit: StoredSession, got: Any) -> bool:
        """Tell whether a request is over by what came of a call: an application that raises ends there."""
        is_over = got in (ResponseStartedError, StoreError)
        if is_over:
            self.held = [one for one in self.held if one[1] is not visit]
        return is_over

    def make(self, visit: StoredSession, request: Request, move: Move) -> Any:
        given = self.resolve(request, move)
        return self.hear(visit, request, move, given, self.run(self.call(visit, move, given)))

    def hear(self, visit: StoredSession, request: Request, move: Move, given: tuple[Any, ...], got: Any) -> Any:
        self.promise(self.world, request, move, given, self.run(self.news(visit, got)))
        self.check_cookie(visit, request)
        return got

    def promise(self, world: World, request: Request, move: Move, given: tuple[Any, ...], news: News) -> None:
        """Take the step in the model too, and see that it promises what was got."""
        try:
            expected = getattr(world, move.name)(request, news, *copy.deepcopy(given))
        except RefusedError as refused:
            expected = refused.error
        assert news.got == expected, f"{move.name} gave {news.got!r}, and promised is {expected!r}"

    def cookie_set_by(self, visit: StoredSession) -> Any:
        return visit.cookie_value if visit.changes_cookie else KEPT

    def check_cookie(self, visit: StoredSession, request: Request) -> None:
        assert self.cookie_set_by(visit) == request.sets, "a cookie that the design does not set"

    # --- rules

    @initialize(
        most=st.sampled_from([None, 1, 2]),
        single_use=st.booleans(),
        token_age=st.sampled_from([None, 300]),
        absolute=st.sampled_from([ABSOLUTE, None]),
    )
    def configure(self, most: int | None, single_use: bool, token_age: float | None, absolute: float | None) -> None:
        more = {"max_sessions": most, "single_use": single_use, "token_age": token_age}
        self.settle(more, World(absolute, most, single_use, token_age))

    @rule(which=st.integers(0, 1), tossed=st.none() | THIEF, is_first=st.booleans())
    def hold_a_request_open(self, which: int, tossed: Who | None, is_first: bool) -> None:
        browser = self.browsers[which]
        cookies = [] if browser.cookie is None else [browser.cookie]
        if tossed is not None:
            # A sibling domain can add a cookie of its own.
            cookies.insert(0 if is_first else len(cookies), self.steal(*tossed))
        if len(self.held) > 3:
            self.answer(0)
        self.held.append((browser, *self.arrive(cookies)))

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 3))
    def answer(self, which: int) -> None:
        browser, visit, request = self.held.pop(which % len(self.held))
        self.leave(browser, visit, request)

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 3))
    def start_the_answer(self, which: int) -> None:
        browser, visit, request = self.held[which % len(self.held)]
        if browser is not None and not request.started:
            browser.receive(visit)
        visit.response, request.started = ResponseState.STARTED, True

    @precondition(lambda self: self.clock_moves)
    @rule(seconds=st.sampled_from([1, 59, 61, 95, 299, 301, 950, 1001, 3000, 6001]))
    def wait(self, seconds: float) -> None:
        self.pass_time(seconds)

    def pass_time(self, seconds: float) -> None:
        if not self.clock_moves:
            return
        until = self.clock.time + seconds
        # Between these two a store may have it either way.
        for session in sorted(self.world.sessions.values(), key=lambda one: one.expires):
            if self.world.lives(session) and session.surely <= until < session.expires:
                until = session.expires
        self.clock.time = self.world.now = until

    @rule(who=ANYONE, move=READS)
    def read(self, who: Who, move: Move) -> None:
        self.step(who, move)

    @rule(who=ANYONE, move=WRITES)
    def write(self, who: Who, move: Move) -> None:
        self.step(who, move)

    @rule(who=VISITORS, move=PASSAGES)
    def pass_on(self, who: Who, move: Move) -> None:
        self.step(who, move)

    @rule(who=VISITORS, moves=st.lists(ANY_MOVE, min_size=2, max_size=4))
    def go_on(self, who: Who, moves: list[Move]) -> None:
        self.step(who, *moves)

    @rule(who=VISITORS, move=MOVES["log_in"])
    def log_in(self, who: Who, move: Move) -> None:
        self.step(who, move)

    @rule(who=THIEF, move=ANY_MOVE)
    def attack(self, who: Who, move: Move) -> None:
        self.step(who, move)

    @rule(who=VISITORS, move=MOVES["csrf_token"])
    def ask_for_a_token(self, who: Who, move: Move) -> None:
        self.step(who, move)

    @rule(who=ANYONE, move=MOVES["has_csrf_token"] | MOVES["admit"])
    def send_a_token(self, who: Who, move: Move) -> None:
        self.step(who, move)

    @rule(who=BROWSERS, move=MOVES["sessions_of"] | MOVES["destroy_sessions_of"])
    def administrate(self, who: Who, move: Move) -> None:
        self.step(who, move)

    # --- what random steps come to too seldom

    def begin(self, which: int) -> Who:
        """Return a browser that has a session, most often."""
        who = Who("browser", which)
        self.step(who, Move("set", ({"a": 1, "n": 1},)))
        return who

    @rule(
        which=st.integers(0, 1),
        owner=st.none() | OWNERS,
        looks=st.booleans(),
        passage=PASSAGES | MOVES["renew"],
        seconds=st.sampled_from([0, 0, 59, 61, 61]),
        late=WRITES | PASSAGES | MOVES["csrf_token"],
    )
    def come_late(self, which: int, owner: int | None, looks: bool, passage: Move, seconds: float, late: Move) -> None:
        who = self.begin(which)
        if owner is not None:
            self.step(who, Move("log_in", (owner, {"user": "ada"})))
        self.hold_a_request_open(which, None, is_first=True)
        held = Who("held", len(self.held) - 1)
        if looks:
            self.step(held, Move("get"))
        self.step(who, passage)
        self.pass_time(seconds)
        self.step(held, late)

    @rule(
        which=st.integers(0, 1),
        scope=SCOPES,
        between=st.none() | PASSAGES | MOVES["csrf_token"],
        seconds=st.sampled_from([0, 0, 0, 299, 301]),
        sent=MOVES["has_csrf_token"] | MOVES["admit"],
    )
    def use_a_token_twice(self, which: int, scope: str, between: Move | None, seconds: float, sent: Move) -> None:
        who = self.begin(which)
        self.step(who, Move("csrf_token", (scope,)))
        if between is not None:
            self.step(who, between)
        self.pass_time(seconds)
        self.step(who, sent)
        self.step(who, sent, sent)

    @rule(
        which=st.integers(0, 1),
        life=LIVES,
        waits=st.lists(st.sampled_from([50, 101, 290, 950, 3000]), min_size=2, max_size=4),
        between=READS,
        then=READS | PASSAGES,
    )
    def live_on(self, which: int, life: Life, waits: list[float], between: Move, then: Move) -> None:
        who = self.begin(which)
        self.step(who, Move("renew", (None, life, False)))
        for seconds in waits[1:]:
            self.pass_time(seconds)
            self.step(who, between)
        self.pass_time(waits[0])
        self.step(who, then)

    @rule(which=st.integers(0, 1), is_first=st.booleans(), move=ANY_MOVE)
    def toss_a_cookie_of_ones_own(self, which: int, is_first: bool, move: Move) -> None:
        self.begin(1 - which)
        self.begin(which)
        other = self.browsers[1 - which].cookie
        if other is not None:
            cookies = [one for one in (self.browsers[which].cookie, other) if one is not None]
            self.held.append((self.browsers[which], *self.arrive(cookies[::-1] if is_first else cookies)))
            self.step(Who("held", len(self.held) - 1), move)

    @rule(who=VISITORS, owner=OWNERS, edits=EDITS, name=st.sampled_from(["put", "drop"]), user=USERS)
    def come_and_go(self, who: Who, owner: int, edits: list[Edit], name: str, user: str | None) -> None:
        self.step(who, Move("log_in", (owner, {"user": "ada"})))
        self.step(who, Move("mapping", ([*edits, Edit(name, "user", user)],)))

    @rule(owner=OWNERS, move=MOVES["sessions_of"] | MOVES["destroy_sessions_of"], which=st.integers(0, 1))
    def log_in_twice_and_administrate(self, owner: int, move: Move, which: int) -> None:
        for one in (0, 1):
            self.step(Who("browser", one), Move("log_in", (owner, {"a": one})))
        self.step(Who("browser", which), Move(move.name, (owner, *move.given[1:])))
        self.step(Who("browser", which), Move("get"))

    # --- what holds after every step

    @invariant()
    def the_store_holds_what_the_model_says(self) -> None:
        self.run(self.compare(self.world))

    async def compare(self, world: World) -> None:
        for session in world.sessions.values():
            self.compare_record(world, session, await self.store.get(session.id, {}, False))

    def compare_record(self, world: World, session: Session, fields: Fields | Outcome) -> None:
        if not world.lives(session):
            is_marked = not isinstance(fields, Outcome)
            assert is_marked == world.is_marked(session), "a session that ended, or none that did"
            assert isinstance(fields, Outcome) or set(fields) == {ENDED}
            return
        assert not isinstance(fields, Outcome), "a session that lives is gone"
        assert fields.get(DIGEST) == Credential(session.id, session.cookie[24:]).digest(), "another cookie opens it"
        assert decode_fields(user_fields(fields)) == session.data
        assert (OWNER in fields) == (session.owner is not None)
        assert (time_of(fields, AUTHENTICATED) if AUTHENTICATED in fields else None) == session.authenticated
        names = [stored._name(token.nonce) for one in session.outstanding if (token := read_token(one))]
        assert outstanding_of(fields) == names

    @invariant()
    def the_owners_lists_are_the_sessions_that_live(self) -> None:
        for owner in self.owners:
            # Without the tidying that the public call does.
            owners = OwnerIndex(self.aside.policy, owner)
            answers = self.run(owners._look(_listed(self.run(owners._index()))))
            living = [selector for selector, answer in answers.items() if isinstance(answer, dict)]
            assert living == [one.id for one in self.world.living_of(owner)]
            most = self.world.most
            assert most is None or len(living) <= most + self.spare

    @invariant()
    def no_cookie_opens_anything_but_the_last_of_a_session_that_lives(self) -> None:
        for cookie in self.world.cookies[-6:]:
            if self.world.session_of(cookie) is None:
                visit = made_by(self.aside.policy, cookie)
                assert self.run(visit.get()) == {}


class YieldingMachine(Machine):
    """Over a store that suspends, two requests are also at work at once, and it is as if one had come first."""

    def make_store(self) -> SessionStore:
        def order() -> Iterator[int]:
            while True:
                yield self.schedule.pop() if self.schedule else 0

        return YieldingStore(MemorySessionStore(clock=self.clock), order())

    @rule(
        which=st.integers(0, 1),
        one=WRITES | PASSAGES,
        other=WRITES | PASSAGES | MOVES["csrf_token"],
        schedule=st.lists(st.integers(0, 3), min_size=4, max_size=16),
    )
    def race_in_two_tabs(self, which: int, one: Move, other: Move, schedule: list[int]) -> None:
        who = self.begin(which)
        self.meet([self.open(who), self.open(who)], one, other, schedule)

    @rule(which=st.integers(0, 1), one=AT_ONE_KEY, other=AT_ONE_KEY, schedule=st.lists(st.integers(0, 2), max_size=6))
    def race_for_one_key(self, which: int, one: Move, other: Move, schedule: list[int]) -> None:
        who = self.begin(which)
        self.meet([self.open(who), self.open(who)], one, other, schedule)

    @rule(
        which=st.integers(0, 1),
        sent=MOVES["has_csrf_token"] | MOVES["admit"],
        other=PASSAGES | MOVES["has_csrf_token"],
        schedule=st.lists(st.integers(0, 3), min_size=4, max_size=16),
    )
    def race_with_a_token(self, which: int, sent: Move, other: Move, schedule: list[int]) -> None:
        who = self.begin(which)
        self.step(who, Move("csrf_token", ("",)))
        self.meet([self.open(who), self.open(who)], sent, other, schedule)

    @rule(
        first=VISITORS,
        one=WRITES | PASSAGES | MOVES["log_in"],
        second=ANYONE,
        other=ANY_MOVE,
        schedule=st.lists(st.integers(0, 3), min_size=4, max_size=16),
    )
    def race(self, first: Who, one: Move, second: Who, other: Move, schedule: list[int]) -> None:
        self.meet([self.open(first), self.open(second)], one, other, schedule)

    def meet(
        self, racers: list[tuple[Browser | None, StoredSession, Request]], one: Move, other: Move, schedule: list[int]
    ) -> None:
        if racers[0][1] is racers[1][1]:
            return
        for racer, move in zip(racers, (one, other), strict=True):
            if move.name == "mapping":
                # Its load and its commit are two steps: the commit races.
                self.make(*racer[1:], Move("mapping", ([],)))
        moves = [(move, self.resolve(racer[2], move)) for racer, move in zip(racers, (one, other), strict=True)]
        self.schedule = schedule

        async def meet() -> list[Any]:
            calls = [self.call(racer[1], *move) for racer, move in zip(racers, moves, strict=True)]
            return await asyncio.gather(*calls)

        results = self.run(meet())
        news = [self.run(self.news(racer[1], got)) for racer, got in zip(racers, results, strict=True)]
        failures = []
        owner, *others = {given[0] if move.name in ("log_in", "destroy_sessions_of") else None for move, given in moves}
        for order, looked_first in itertools.product(itertools.permutations(range(2)), (False, True)):
            world, requests = copy.deepcopy((self.world, [racer[2] for racer in racers]))
            world.contended = None if others else owner
            if looked_first:
                # A call that looks and then writes may have seen what was there before the other came.
                world.judge(requests[order[1]])
            try:
                heard = self.between(world, requests, moves, news, *order)
                for i in order:
                    self.promise(world, requests[i], *moves[i], heard[i])
                    # Who came last was ended by none that came before.
                    world.contended = None
                for racer, request in zip(racers, requests, strict=True):
                    self.check_cookie(racer[1], request)
                self.run(self.compare(world))
            except AssertionError as error:
                failures.append(f"{order} {looked_first}: {error}")
                continue
            break
        else:
            raise AssertionError(f"as if neither had come first: {failures}")
        self.world = world
        for racer, request, got in zip(racers, requests, results, strict=True):
            racer[2].__dict__.update(request.__dict__)
            self.has_ended(racer[1], got)
            self.leave(*racer)

    def between(
        self,
        world: World,
        requests: list[Request],
        moves: list[tuple[Move, tuple[Any, ...]]],
        news: list[News],
        listing: int,
        log_in: int,
    ) -> list[News]:
        """Return the news as if an owner's list that was asked for during a log-in had been asked for before it.

        A log-in ends the oldest of too many before it lists its own: between the two the list has neither.
        """
        if (moves[listing][0].name, moves[log_in][0].name) != ("sessions_of", "log_in"):
            return news
        later, then = copy.deepcopy((world, requests))
        owner, got = moves[listing][1][0], news[listing].got
        before = later.sessions_of(then[listing], news[listing], owner)
        self.promise(later, then[log_in], *moves[log_in], news[log_in])
        stayed = set(before) & set(later.sessions_of(then[listing], news[listing], owner))
        if isinstance(got, list) and stayed <= set(got) <= set(before):
            news = [*news]
            news[listing] = news[listing]._replace(got=before)
        return news


class Failing(StoreOver):
    """A store that fails as it is told: before it does what it is asked, or after, when nobody hears of it."""

    def __init__(self, store: SessionStore) -> None:
        super().__init__(store)
        self.plan: list[str] = []
        """What becomes of the next calls."""
        self.is_down = False

    async def _ask(self, call: Any, key: str, *arguments: Any, **options: Any) -> Any:
        how = "before" if self.is_down else self.plan.pop(0) if self.plan else "works"
        if how == "before":
            raise StoreDownError("the store is down")
        answer = await super()._ask(call, key, *arguments, **options)
        if how == "after":
            raise StoreDownError("the store did not answer")
        return answer


FAULTS = st.sampled_from(["before", "after"])
PLANS = st.builds(lambda calls, how: ["works"] * calls + [how], st.integers(0, 3), FAULTS) | st.lists(
    st.just("works") | FAULTS, min_size=2, max_size=5
)


class FailingMachine(Machine):
    """Over a store that fails, in calls of one request or for a while, and visitors who hang up."""

    # A log-in that failed before it ended the session that it is instead of.
    spare = 1
    cancels: ClassVar[bool] = True
    """Whether requests are cancelled, where they can be. What is sent to a server may be done after that."""

    def __init__(self) -> None:
        self.made: list[str] = []
        """The cookies, and the tokens, that the step has made: whether anybody heard of them or not."""
        self.issued: list[str] = []
        super().__init__()
        found = Credential.found

        def noted(selector: str) -> Credential:
            credential = found(selector)
            self.made.append(credential.value)
            return credential

        def noted_token(*given: Any) -> str:
            self.issued.append(issue_token(*given))
            return self.issued[-1]

        self.ends.enter_context(mock.patch.object(Credential, "found", noted))
        self.ends.enter_context(mock.patch.object(stored, "issue_token", noted_token))

    def stand_before(self, store: SessionStore) -> SessionStore:
        self.failing = Failing(self.reach(store))
        return CircuitStore(self.failing, self.clock)

    def reach(self, store: SessionStore) -> SessionStore:
        """Return the store as the site reaches it."""
        return store

    # --- steps of which nobody hears

    def make(
        self, visit: StoredSession, request: Request, move: Move, turns: int | None = None, *, is_answered: bool = True
    ) -> Any:
        """Take a step; with `turns` it is cancelled after so many of the loop."""
        given = self.resolve(request, move)
        self.made.clear()
        self.issued.clear()
        got = self.run(self.cut(self.call(visit, move, given), turns))
        if got is not StoreError:
            return self.hear(visit, request, move, given, got)
        if is_answered:
            self.run(self.answer_all_the_same(visit))
        self.doubt(visit, request, move, given)
        return got

    async def cut(self, call: Coroutine[Any, Any, Any], turns: int | None) -> Any:
        try:
            if turns is None:
                return await call
            task = asyncio.ensure_future(call)
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            return await task
        except (StoreError, asyncio.CancelledError):
            return StoreError

    async def answer_all_the_same(self, visit: StoredSession) -> None:
        """Do what an exchange does before it answers with 503."""
        visit.abandon()
        with suppress(StoreError):
            await visit.commit()

    def doubt(self, visit: StoredSession, request: Request, move: Move, given: tuple[Any, ...]) -> None:
        """Find each record as it was before the step, or as the step would have left it, and go on from there."""
        failures, made = [], [*self.made]
        text = self.issued[-1] if self.issued else junk_token()
        marked = self.run(self.news(visit, None)).marked
        keys = [self.store.id(), *(cookie[:24] for cookie in (*request.presented, request.cookie) if cookie)]
        nowhere = [Credential.found(key).value for key in keys]
        for cookie in made or (None, *nowhere):
            world, asked = copy.deepcopy((self.world, request))
            try:
                with suppress(RefusedError):
                    getattr(world, move.name)(asked, News(text, cookie, marked), *copy.deepcopy(given))
                self.run(self.adopt(world))
                sets = self.cookie_set_by(visit)
                assert sets in (request.sets, asked.sets), "a cookie that the design does not set"
                is_new = isinstance(sets, str) and sets != request.sets
                assert not is_new or world.session_of(sets) is not None, "the browser is given a cookie of nothing"
            except AssertionError as error:
                failures.append(str(error))
                continue
            if not self.issued:
                world.tokens.pop(text, None)
            world.reserved = self.run(self.reserved(world))
            self.world = world
            return
        raise AssertionError(f"{move.name} was neither done nor not done: {failures}")

    async def reserved(self, world: World) -> dict[str, tuple[str, float]]:
        return {
            key: (owner, since)
            for owner in self.owners
            for since, key in _listed(await OwnerIndex(self.aside.policy, owner)._index())
            if key not in world.sessions and await self.store.get(key, {}, False) is MISSING
        }

    async def adopt(self, world: World) -> None:
        """Take back what the store does not show of a step."""
        for key, after in [*world.sessions.items()]:
            before, fields = self.world.sessions.get(key), await self.store.get(key, {}, False)
            # A token that passes once is noted by a write of its own.
            unnoted = replace(after, outstanding=[] if before is None else before.outstanding)
            may_be = [one for one in (after, unnoted, before) if one is not None and self.is_so(one, fields)]
            if not may_be:
                assert before is None, "a record neither as it was nor as it would be"
                assert isinstance(fields, Outcome), "a session founded otherwise than it would be"
                del world.sessions[key]
                # Nobody was given it, to be copied. A mark may come to stand there, for it may be listed.
                world.cookies.remove(after.cookie)
                continue
            world.sessions[key] = found = copy.copy(may_be[0])
            if before in may_be and world.lives(before):
                # Whether it was touched nobody can see.
                found.surely = min(found.surely, before.surely)
                found.expires = max(found.expires, min(world.now + found.idle, found.deadline))

    def is_so(self, session: Session, fields: Fields | Outcome) -> bool:
        try:
            self.compare_record(self.world, session, fields)
        except AssertionError:
            return False
        return True

    # --- faults

    @rule(who=ANYONE, moves=st.lists(ANY_MOVE, min_size=1, max_size=3), plan=PLANS)
    def the_store_fails(self, who: Who, moves: list[Move], plan: list[str]) -> None:
        self.failing.plan = [*plan]
        self.step(who, *moves)
        self.failing.plan.clear()

    @rule(which=st.integers(0, 1), owner=st.none() | OWNERS, move=AT_ONE_KEY | WRITES | PASSAGES, plan=PLANS)
    def it_fails_somebody_who_has_a_session(self, which: int, owner: int | None, move: Move, plan: list[str]) -> None:
        self.the_store_fails(self.come(which, owner), [move], plan)

    @rule(which=st.integers(0, 1), sent=MOVES["has_csrf_token"] | MOVES["admit"], plan=PLANS)
    def it_fails_where_a_token_is_sent(self, which: int, sent: Move, plan: list[str]) -> None:
        who = self.come(which, None)
        self.step(who, Move("csrf_token", ("",)))
        self.the_store_fails(who, [sent], plan)
        self.step(who, sent)

    @rule(which=st.integers(0, 1), passage=PASSAGES, plan=PLANS, late=WRITES | PASSAGES | MOVES["has_csrf_token"])
    def it_fails_and_they_try_again(self, which: int, passage: Move, plan: list[str], late: Move) -> None:
        who = self.come(which, 0)
        self.step(who, Move("csrf_token", ("",)))
        self.hold_a_request_open(which, None, is_first=True)
        self.the_store_fails(who, [passage], plan)
        self.step(who, passage)
        if self.held:
            self.step(Who("held", len(self.held) - 1), late)

    @precondition(lambda self: self.awaits and self.cancels)
    @rule(
        who=VISITORS,
        which=st.integers(0, 1),
        owner=st.none() | OWNERS,
        moves=ANY_MOVE,
        turns=st.integers(0, 16),
        is_answered=st.booleans(),
    )
    def hang_up(self, who: Who, which: int, owner: int | None, moves: Move, turns: int, is_answered: bool) -> None:
        if who.kind == "browser":
            who = self.come(which, owner)
        browser, visit, request = self.open(who)
        got = self.make(visit, request, moves, turns, is_answered=is_answered)
        self.held = [one for one in self.held if one[1] is not visit]
        if got is not StoreError or is_answered:
            self.leave(browser, visit, request)

    def come(self, which: int, owner: int | None) -> Who:
        who = self.begin(which)
        if owner is not None:
            self.step(who, Move("log_in", (owner, {"user": "ada"})))
        return who

    @precondition(lambda self: not self.failing.is_down)
    @rule(seconds=st.sampled_from([0, 2]))
    def go_down(self, seconds: float) -> None:
        self.failing.is_down = True
        for which in (0, 1):
            self.step(Who("browser", which), Move("set", ({"a": 1},)))
            self.pass_time(seconds)

    @precondition(lambda self: self.failing.is_down)
    @rule()
    def come_back(self) -> None:
        self.failing.is_down = False
        self.pass_time(1)
        assert self.run(self.used.get(self.store.id(), {})) is MISSING, "the circuit finds it when it is back"


class BehindProxy(FailingMachine):
    """Over a server, whose network fails too; what it holds is looked at past the network."""

    cancels = False
    server: ClassVar[Server]
    proxy: ClassVar[Proxy]

    def make_store(self) -> SessionStore:
        return self.connect(self.server.port, PATIENCE)

    def reach(self, store: SessionStore) -> SessionStore:
        self.reached = self.connect(self.proxy.port, 1.0)
        return self.reached

    def connect(self, port: int, limit: float) -> SessionStore:
        raise NotImplementedError

    def teardown(self) -> None:
        for store in (self.reached, self.store):
            if (close := getattr(store, "close", None)) is not None:
                self.run(close())
        super().teardown()

    @rule(
        which=st.integers(0, 1),
        owner=st.none() | OWNERS,
        moves=st.lists(ANY_MOVE, min_size=1, max_size=4),
        weather=st.sampled_from([*{*Weather} - {Weather.FAIR}]),
    )
    def the_weather_is_bad(self, which: int, owner: int | None, moves: list[Move], weather: Weather) -> None:
        who = self.come(which, owner)
        self.proxy.weather = weather
        for move in moves:
            self.step(who, move)
        self.proxy.weather = Weather.FAIR
        wait_until(self.is_answered)

    def is_answered(self) -> bool:
        # For the circuit.
        self.pass_time(1)
        with suppress(StoreError):
            return self.run(self.used.get(self.store.id(), {})) is MISSING or self.failing.is_down
        return self.failing.is_down


def try_out(machine: type[Machine], examples: int, steps: int) -> None:
    machine.TestCase.settings = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    machine.TestCase().runTest()


# What a second or two suffice for.
EXAMPLES = {"memory": 15, "yielding memory": 10, "file": 3, "sealed memory": 10}


@pytest.mark.drawn
@pytest.mark.parametrize("kind", EVERY_STORE)
def test_visitors_thief_and_administrator_get_what_the_design_promises_over(kind: str) -> None:
    base = YieldingMachine if kind.startswith("yielding") else Machine
    try_out(type("Machine", (base,), {"kind": kind}), EXAMPLES[kind] * (40 if ALL else 1), 30)


FAILING = {"memory": 10, "yielding memory": 6, **({"file": 3} if ALL else {})}


@pytest.mark.drawn
@pytest.mark.parametrize("kind", FAILING)
def test_they_get_it_or_a_503_where_the_store_fails_and_requests_are_cancelled(kind: str) -> None:
    try_out(type("Machine", (FailingMachine,), {"kind": kind}), FAILING[kind] * (40 if ALL else 1), 30)


def long(test: Callable[..., None]) -> Callable[..., None]:
    """Mark what `scripts/test --all` alone runs."""
    skipped = pytest.mark.skipif(not ALL, reason="takes long: SERVER_SESSION_ALL=1 runs it")
    return pytest.mark.once(pytest.mark.drawn(skipped(test)))


class OnSQLite(Machine):
    def make_store(self) -> SessionStore:
        directory = self.ends.enter_context(tempfile.TemporaryDirectory())
        store = SQLSessionStore(f"sqlite:///{directory}/sessions", create_table=True, clock=self.clock)
        self.ends.callback(lambda: drive(store.close()))
        return store


class FailingOnSQLite(OnSQLite, FailingMachine):
    pass


@long
@pytest.mark.parametrize("machine", [OnSQLite, FailingOnSQLite])
def test_they_get_it_over_sqlite(machine: type[Machine]) -> None:
    try_out(machine, 200, 40)


@long
def test_they_get_it_over_postgresql(postgresql_server: Server) -> None:
    class OnPostgreSQL(Machine):
        def make_store(self) -> SessionStore:
            url = postgresql_server.url_for("postgresql+psycopg")
            store = SQLSessionStore(url, create_table=True, clock=self.clock)
            self.ends.callback(lambda: drive(store.close()))
            return store

    try_out(OnPostgreSQL, 100, 40)


@long
def test_they_get_it_over_redis_whose_clock_nobody_moves(redis_server: Server) -> None:
    import redis

    client = redis.Redis(port=redis_server.port)

    class OnRedis(Machine):
        clock_moves = False

        def make_store(self) -> SessionStore:
            return RedisSessionStore(client)

    with client:
        try_out(OnRedis, 300, 40)


@long
def test_they_get_it_or_a_503_over_redis_in_bad_weather(redis_server: Server) -> None:
    class OnRedis(BehindProxy):
        clock_moves = False

        def connect(self, port: int, limit: float) -> SessionStore:
            return RedisSessionStore(f"redis://127.0.0.1:{port}/0", timeout=limit)

    with Proxy(redis_server.port) as OnRedis.proxy:
        OnRedis.server = redis_server
        try_out(OnRedis, 100, 30)


@long
def test_they_get_it_or_a_503_over_postgresql_in_bad_weather(postgresql_server: Server) -> None:
    class OnPostgreSQL(BehindProxy):
        def connect(self, port: int, limit: float) -> SessionStore:
            url = f"postgresql+asyncpg://session@127.0.0.1:{port}/session"
            return SQLSessionStore(url, create_table=True, clock=self.clock, timeout=limit)

    with Proxy(postgresql_server.port) as OnPostgreSQL.proxy:
        OnPostgreSQL.server = postgresql_server
        try_out(OnPostgreSQL, 50, 30)


# --- what the machine has found, or would


def made_by(policy: Policy, cookie: str | None) -> StoredSession:
    credential = None if cookie is None else Credential.parse(cookie)
    return StoredSession(policy, [] if credential is None else [credential], ResponseState.OPEN)


def test_a_log_in_by_a_request_whose_cookie_was_swapped_long_ago_lets_no_more_sessions_in_than_are_allowed() -> None:
    clock = Clock()
    policy = Site(MemorySessionStore(clock=clock), clock).policy._replace(max_sessions=1)
    first = made_by(policy, None)
    assert drive(first.replace({}, "ada"))
    late = made_by(policy, first.cookie_value)
    drive(late.get())
    assert drive(made_by(policy, first.cookie_value).renew())
    clock.advance(MINUTE + 1)
    # It is not entitled to end the session that it had, so that one counts.
    assert drive(late.replace({}, "ada"))
    assert len(drive(OwnerIndex(policy, "ada").sessions())) == 1


def test_a_session_that_is_only_asked_for_what_it_has_not_was_seen_all_the_same() -> None:
    clock = Clock()
    policy = Site(MemorySessionStore(clock=clock), clock).policy
    first = made_by(policy, None)
    assert drive(first.replace({"n": 1}, "ada"))
    for _ in range(5):
        clock.advance(100)
        # The flash that is not there, on every page.
        assert drive(made_by(policy, first.cookie_value).pluck("flash")) is None
    (seen,) = drive(OwnerIndex(policy, "ada").sessions())
    assert clock() - seen.last_seen.timestamp() <= MINUTE + 1
