"""The CSRF tokens of one request's session: given out, and looked at when they come back.

The fourth of the five layers of a `StoredSession`. What a token is made of is in `_tokens`.
"""

from collections.abc import Collection
from typing import Final

from server_session import _record as record
from server_session._base64url import base64url
from server_session._record import OUTSTANDING
from server_session._tokens import Token, TokenState, issue_token, junk_token, read_token
from server_session.exceptions import ColourError
from server_session.kernel.mapped import Mapped
from server_session.kernel.states import LIVE, NONE, OVER, REFUSED, UNASKED
from server_session.kernel.writing import Draft
from server_session.stores._base import Fields

__all__ = ["FormTokens"]

_OUTSTANDING_AT_MOST: Final = 64
# What names a nonce among 64 of one session; its tag is what proves it.
_NAME_BYTES: Final = 9


class FormTokens(Mapped):
    """The tokens of one request's session.

    `token_given` tells whether the response bears one.
    """

    token_given = False
    _passed: str | None = None

    def csrf_token_now(self, scope: str) -> str:
        """Return a fresh token without asking the store; where there is no session, one that the commit founds.

        Raises `ColourError` where the store has to be asked: the session was not looked up yet, a log-in is not yet
        stored, or tokens pass once and each is noted.
        """
        if self.state is UNASKED or self._policy.single_use or self._logs_in():
            raise ColourError(
                "this CSRF token cannot be had without asking the store: `await get_csrf_token(request)` where the "
                "page is made, and give it to the template"
            )
        self.accessed = self.token_given = True
        if self.state is OVER:
            return junk_token()
        if self.state is not LIVE or self._credential is None:
            self.owes_session = True
            return issue_token(self._to_found(), scope, self._policy.now())
        return issue_token(self._credential, scope, self._policy.now())

    async def csrf_token(self, scope: str) -> str:
        """Return a fresh token; found a session if there is none."""
        self.accessed = self.token_given = True
        # A log-in that the mapping holds kills the tokens of before: it comes first, or the page gets a dead one.
        if self._logs_in():
            await self.commit()
        await self._look()
        if self.state in (NONE, REFUSED):
            await self._found({})
        if self.state is OVER or self._credential is None:
            # No session to bind it to: a token all the same, for the page to render, which will not validate.
            return junk_token()
        text = issue_token(self._credential, scope, self._policy.now())
        if self._policy.single_use and not await self._register(text):
            return junk_token()
        return text

    async def has_csrf_token(self, text: str, scope: str) -> bool:
        """Tell whether this token was issued to the session, and the session lives; one that passes once is used."""
        return await self._token_state(text, (scope,)) is TokenState.VALID

    async def admit(self, text: str | None, scopes: Collection[str]) -> TokenState:
        """Say what is known of the token that came with the request; one that passes once is used by this.

        `scopes` are those of which it may be any.
        """
        state = TokenState.MISSING if not text else await self._token_state(text, scopes, keep=True)
        if text and state is TokenState.VALID:
            self._passed = text
        return state

    async def _token_state(self, text: str, scopes: Collection[str], *, keep: bool = False) -> TokenState:
        self.accessed = True
        token = read_token(text)
        if token is None:
            return TokenState.INVALID
        if self._is_ambiguous:
            await self._choose()
        credential = self.credential
        # The tag first: what does not verify costs a call to the store only to say why.
        if credential is None or not any(token.is_of(credential, scope) for scope in scopes):
            # The session's own, where one form's is asked for, is not made good by a fresh one.
            is_wide = credential is not None and token.is_of(credential, "")
            return TokenState.INVALID if is_wide else await self._why_refused(token)
        fields = await self._look()
        if fields is None or self._credential is not credential:
            return TokenState.STALE
        if keep:
            self.mapping(fields)
        age = self._policy.token_age
        if age is not None and self._policy.now() - token.time > age:
            return TokenState.STALE
        # What has let this very request pass is good throughout the request.
        if self._policy.single_use and text != self._passed and not await self._use(token, fields):
            return TokenState.USED
        return TokenState.VALID

    async def _why_refused(self, token: Token) -> TokenState:
        fields = await self._look(touch=False)
        if fields is None or token.time <= record.secret_since(fields):
            return TokenState.STALE
        return TokenState.INVALID

    # --- tokens that pass once: the record's list of those that were given out and not yet used

    async def _register(self, text: str) -> bool:
        """Note a token that passes once; return False if the session ended meanwhile."""
        token = read_token(text)
        assert token is not None  # noqa: S101 - it was issued here
        name = _name(token.nonce)

        def add(fields: Fields | None) -> Draft | None:
            # The oldest of 64 makes room.
            known = fields or {}
            return _draft(known, [*record.outstanding_of(known), name][-_OUTSTANDING_AT_MOST:])

        return await self._write_if_still_so("get_csrf_token", add, names={"csrf token"})

    async def _use(self, token: Token, fields: Fields) -> bool:
        """Use up a token that passes once; of several requests exactly one can."""
        name = _name(token.nonce)
        is_noted = False

        def remove(known: Fields | None) -> Draft | None:
            nonlocal is_noted
            names = [] if known is None else record.outstanding_of(known)
            is_noted = name in names
            return _draft(known or {}, [one for one in names if one != name]) if is_noted else None

        applied = await self._write_if_still_so("validate_csrf_token", remove, fields=fields, names={"csrf token"})
        return applied and is_noted


def _draft(fields: Fields, names: list[str]) -> Draft:
    # The names are base64url: nothing in them needs an escape.
    text = b"[" + b",".join(b'"%s"' % name.encode("ascii") for name in names) + b"]"
    return Draft({OUTSTANDING: text}, (), {OUTSTANDING: fields.get(OUTSTANDING)})


def _name(nonce: bytes) -> str:
    return base64url(nonce[-_NAME_BYTES:]).decode("ascii")
