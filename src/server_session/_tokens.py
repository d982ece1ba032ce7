"""What a browser holds: the cookie's selector and verifier, and the CSRF tokens made from the verifier."""

import base64
import enum
import hashlib
import hmac
import os
import re
from typing import Final, NamedTuple

from server_session._base64url import base64url
from server_session._cookies import CREDENTIAL
from server_session._record import DIGEST
from server_session.exceptions import StoreError
from server_session.stores._base import Expect

_SELECTOR_LENGTH: Final = 24
_VERIFIER_BYTES: Final = 30
_TIME_BYTES: Final = 4
_NONCE_BYTES: Final = _TIME_BYTES + 16
_TAG_BYTES: Final = hashlib.sha256().digest_size
_CSRF_KEY: Final = b"server-session csrf token"

is_selector = re.compile(r"[A-Za-z0-9_-]{24}").fullmatch
# The last character has four spare bits, so sixteen spellings decode to the same bytes: only the issued one passes.
_is_token = re.compile(r"[A-Za-z0-9_-]{69}[AQgw]").fullmatch


class Credential:
    """A cookie's value, in its two parts: who is meant, and the proof."""

    # No struct and no tuple: encoders and tracebacks would show its parts.
    __slots__ = ("_digest", "selector", "verifier")

    def __init__(self, selector: str, verifier: str) -> None:
        self.selector = selector
        self.verifier = verifier
        self._digest = b""

    @classmethod
    def parse(cls, value: str) -> "Credential | None":
        """Return the parts of a cookie's value, or `None` unless it is 64 characters of base64url."""
        if CREDENTIAL.fullmatch(value) is None:
            return None
        return cls(value[:_SELECTOR_LENGTH], value[_SELECTOR_LENGTH:])

    @classmethod
    def found(cls, selector: str) -> "Credential":
        """Return a new credential: what a store's `id()` returned, and a fresh verifier (240 random bits).

        A whole credential is taken as it is. Raises `StoreError` for what is neither, nor 24 characters of base64url.
        """
        if is_selector(selector) is not None:
            return cls(selector, base64url(os.urandom(_VERIFIER_BYTES)).decode("ascii"))
        if (whole := cls.parse(selector)) is None:
            raise StoreError(f"a store's id() must return 24 characters of base64url, not {len(selector)} others")
        return whole

    def __repr__(self) -> str:
        # Whoever reads a traceback with its variables could use it.
        return f"<credential of session {short_digest(self.selector)}>"

    @property
    def value(self) -> str:
        """The cookie's value."""
        return self.selector + self.verifier

    def expect(self) -> Expect:
        """Return what a record must hold for this credential to open it: the credential's digest."""
        # Who can read the store gets no credential by it: the digest does not lead back to the verifier.
        if not self._digest:
            self._digest = b'"' + base64url(hashlib.sha256((self.selector + self.verifier).encode()).digest()) + b'"'
        return {DIGEST: self._digest}

    def digest(self) -> bytes:
        """Return what the store keeps of it: SHA-256 of selector and verifier, as JSON text."""
        self.expect()
        return self._digest


def short_digest(selector: str) -> str:
    """Return the few characters by which logs and signals name a session."""
    return hashlib.sha256(selector.encode("ascii", "replace")).hexdigest()[:10]


def issue_token(credential: Credential, scope: str, now: float) -> str:
    """Return a fresh CSRF token of this credential: 70 characters of base64url.

    `scope` is `""` for the whole session, `now` the time in seconds since the epoch.
    """
    # Fresh random bytes at each call, and the tag over them: no two tokens share what BREACH could compare.
    # No XOR pad: whoever holds one token could make others of it.
    nonce = (int(now) & 0xFFFFFFFF).to_bytes(_TIME_BYTES, "big") + os.urandom(_NONCE_BYTES - _TIME_BYTES)
    return base64url(nonce + _tag(credential, scope, nonce)).decode("ascii")


class TokenState(enum.Enum):
    """What is known of the token that came with a request."""

    MISSING = "missing"
    INVALID = "invalid"
    STALE = "stale"
    """It may have been good, and a fresh one would be: it is too old, or from before the last log-in or renewal."""
    USED = "used"
    """It was good once, and passes once only."""
    VALID = "valid"


class Token(NamedTuple):
    """A CSRF token, in its parts. Whether it was issued here is for `is_of` to say."""

    nonce: bytes
    tag: bytes

    @property
    def time(self) -> int:
        """When it was issued, in whole seconds since the epoch, if it was issued here."""
        return int.from_bytes(self.nonce[:_TIME_BYTES], "big")

    def is_of(self, credential: Credential, scope: str) -> bool:
        """Tell whether it was issued by this credential, for this scope. In constant time."""
        return hmac.compare_digest(self.tag, _tag(credential, scope, self.nonce))


def read_token(text: str) -> Token | None:
    """Return a token's parts, or `None` for what is spelt otherwise than tokens are. Never raises."""
    # Looked at whole before anything is decoded, and bounded in length by that.
    if _is_token(text) is None:
        return None
    raw = base64.urlsafe_b64decode(text + "==")
    return Token(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:])


def junk_token() -> str:
    """Return text of a token's form that will not validate."""
    return base64url(os.urandom(_NONCE_BYTES + _TAG_BYTES)).decode("ascii")


def _tag(credential: Credential, scope: str, nonce: bytes) -> bytes:
    # Made from the verifier: so tokens die at log-in, log-out and every renewal.
    # To name the algorithm by its constructor spares looking it up, half of the time.
    secret = hmac.digest(credential.verifier.encode(), _CSRF_KEY, hashlib.sha256)
    name = scope.encode("utf-8", "surrogatepass")
    return hmac.digest(secret, len(name).to_bytes(4, "big") + name + nonce, hashlib.sha256)
