"""What a browser holds: the cookie's selector and verifier, and the CSRF tokens made from the verifier."""

import base64
import enum
import hashlib
import hmac
import os
import re
import struct
from typing import Final, NamedTuple

from server_session._base64url import base64url

__all__ = [
    "Credential",
    "Token",
    "TokenState",
    "issue_token",
    "junk_token",
    "read_token",
    "short_digest",
]

_SELECTOR_LENGTH: Final = 24
_VERIFIER_BYTES: Final = 30

_CREDENTIAL = re.compile(r"[A-Za-z0-9_-]{64}", re.ASCII)
_SELECTOR = re.compile(r"[A-Za-z0-9_-]{24}", re.ASCII)

_NONCE: Final = struct.Struct(">I16s")
_TAG_BYTES: Final = hashlib.sha256().digest_size
_TOKEN_LENGTH: Final = 70
_CSRF_KEY: Final = b"server-session csrf token"


class Credential:
    """A cookie's value, in its two parts: who is meant, and the proof."""

    __slots__ = ("_digest", "selector", "verifier")

    def __init__(self, selector: str, verifier: str) -> None:
        self.selector: Final = selector
        self.verifier: Final = verifier
        self._digest: bytes | None = None

    @classmethod
    def parse(cls, value: str) -> "Credential | None":
        """Return the parts of a cookie's value, or `None` unless it is 64 characters of base64url."""
        if _CREDENTIAL.fullmatch(value) is None:
            return None
        return cls(value[:_SELECTOR_LENGTH], value[_SELECTOR_LENGTH:])

    @classmethod
    def found(cls, selector: str) -> "Credential":
        """Return a credential of a fresh verifier (240 random bits) under a selector.

        Raises `ValueError` for a selector that is not 24 characters of base64url.
        """
        if _SELECTOR.fullmatch(selector) is None:
            raise ValueError(f"a store's id() must return 24 characters of base64url, not {len(selector)} others")
        return cls(selector, base64url(os.urandom(_VERIFIER_BYTES)).decode("ascii"))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Credential) and hmac.compare_digest(self.value, other.value)

    def __hash__(self) -> int:
        return hash(self.selector)

    def __repr__(self) -> str:
        # Whoever reads a traceback with its variables could use it.
        return f"<credential of session {short_digest(self.selector)}>"

    @property
    def value(self) -> str:
        """The cookie's value."""
        return self.selector + self.verifier

    def digest(self) -> bytes:
        """Return what the store keeps of it: SHA-256 of selector and verifier, as JSON text."""
        # A reader of the store holds no credential: the digest does not lead back to the verifier.
        if self._digest is None:
            digest = hashlib.sha256((self.selector + self.verifier).encode("ascii")).digest()
            self._digest = b'"' + base64url(digest) + b'"'
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
    nonce = _NONCE.pack(int(now) & 0xFFFFFFFF, os.urandom(16))
    return base64url(nonce + _tag(credential, scope, nonce)).decode("ascii")


class TokenState(enum.Enum):
    """What is known of the token that came with a request."""

    UNREAD = "unread"
    """It was not looked for yet."""
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
        time: int = _NONCE.unpack(self.nonce)[0]
        return time

    def is_of(self, credential: Credential, scope: str) -> bool:
        """Tell whether it was issued by this credential, for this scope. In constant time."""
        return hmac.compare_digest(self.tag, _tag(credential, scope, self.nonce))


def read_token(text: str) -> Token | None:
    """Return a token's parts, or `None` for what is spelt otherwise than tokens are. Never raises."""
    # The length is bounded before anything is decoded, and only the one spelling that was emitted is accepted.
    if len(text) != _TOKEN_LENGTH or not text.isascii():
        return None
    try:
        raw = base64.b64decode(text.encode("ascii") + b"==", altchars=b"-_", validate=True)
    except ValueError:
        return None
    if not hmac.compare_digest(base64url(raw), text.encode("ascii")):
        return None
    return Token(raw[: _NONCE.size], raw[_NONCE.size :])


def junk_token() -> str:
    """Return text of a token's form that will not validate."""
    return base64url(os.urandom(_NONCE.size + _TAG_BYTES)).decode("ascii")


def _tag(credential: Credential, scope: str, nonce: bytes) -> bytes:
    # The secret is of the verifier, so a token dies with the verifier: at log-in, log-out and every renewal.
    secret = hmac.digest(credential.verifier.encode("ascii"), _CSRF_KEY, "sha256")
    name = scope.encode("utf-8", "surrogatepass")
    return hmac.digest(secret, struct.pack(">I", len(name)) + name + nonce, "sha256")
