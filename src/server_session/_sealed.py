"""Encryption at rest: a store over a store, beneath which nothing can be read, moved or forged.

    what is stored of a field  =  version (1 byte) ‖ key id (4) ‖ AES-SIV(a zero byte ‖ value, associated: its name)

AES-SIV (RFC 5297) is deterministic: what the core expects of a field is sealed anew, and the store compares bytes.
Its key is each session's own, made from the master key and the selector. So a field opens in its place alone.
"""

import base64
import hmac
import os
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, TypeVar

import msgspec

from server_session._record import CREATED, OWNER
from server_session._signals import Signals
from server_session._tokens import short_digest
from server_session.exceptions import ConfigurationError, RecordError, StoreError
from server_session.stores._base import APPLIED, CONFLICT, Expect, Fields, Lifetime, Outcome, SessionStore
from server_session.stores._over import StoreOver
from server_session.stores._packed import holds

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

__all__ = ["EncryptedCodec", "SealedStore", "sealed"]

T = TypeVar("T")

Refused: TypeAlias = Literal[Outcome.MISSING, Outcome.CONFLICT]

KEY_BYTES: Final = 32
_VERSION: Final = b"\x01"
_KEY_ID_BYTES: Final = 4
_PREFIX_BYTES: Final = len(_VERSION) + _KEY_ID_BYTES
# OpenSSL before 3.5 seals no empty data.
_FILLER: Final = b"\0"
_KEY_ID: Final = b"server-session key id"
_SESSION_KEY: Final = b"server-session key of a session\0"
# A request asks for its session's key two times or three, and to make it costs as much as to seal four fields.
_KEPT_CIPHERS: Final = 1024

HEAD: Final = CREATED
"""The field that holds what a record is founded with, `CREATED` and `OWNER` together: nobody can drop the owner alone.

Every record has one. Its name is of one of the two, so it is in no other field's way.
"""
_IN_HEAD: Final = frozenset((CREATED, OWNER))
_encode_head: Final = msgspec.msgpack.Encoder().encode
_decode_head: Final = msgspec.msgpack.Decoder(tuple[bytes | None, bytes | None]).decode

# Each try that fails is a write of somebody else that was made.
_TRIES: Final = 100

_MAKE_A_KEY: Final = "EncryptedCodec.generate_key() makes one"


class EncryptedCodec:
    """Seals what the store holds, for `configure(codec=EncryptedCodec(keys))`. Needs `server-session[encryption]`.

    Args:
        keys: the master keys, the newest last: at least 32 random bytes each, or their base64url text. The newest
            seals; the others open what they have sealed, so that keys can be changed and nobody is logged out.

    Raises:
        ConfigurationError: a key that cannot be one, the same one twice, none; or `cryptography` is not installed.

    """

    def __init__(self, keys: Sequence[bytes | str]) -> None:
        cipher = _cipher()
        if isinstance(keys, str | bytes) or not isinstance(keys, Sequence):
            raise ConfigurationError(
                "the keys of EncryptedCodec are a list, the newest last, as in EncryptedCodec([key]), "
                f"not {type(keys).__name__!r}"
            )
        if not keys:
            raise ConfigurationError(f"EncryptedCodec needs at least one key: {_MAKE_A_KEY}")
        self._keys: dict[bytes, _Key] = {}
        for place, given in enumerate(keys):
            self._newest = key = _Key(_secret(place, given), cipher)
            if key.prefix in self._keys:
                raise ConfigurationError(f"keys[{place}] of EncryptedCodec is there twice: leave one out")
            self._keys[key.prefix] = key

    def __repr__(self) -> str:
        # The ids, for whoever compares processes; a key itself is shown nowhere.
        return f"<EncryptedCodec of the keys {', '.join(key.name for key in self._keys.values())}>"

    @staticmethod
    def generate_key() -> str:
        """Return a fresh key, as text for a file or a secret's store: 32 random bytes in base64url."""
        return base64.urlsafe_b64encode(os.urandom(KEY_BYTES)).decode("ascii")

    @property
    def is_rotating(self) -> bool:
        """Whether what is stored may be sealed by another key than the one that seals."""
        return len(self._keys) > 1

    def is_stale(self, stored: bytes) -> bool:
        """Tell whether another key than the newest sealed this."""
        return not stored.startswith(self._newest.prefix)

    def seal(self, selector: str, name: str, value: bytes) -> bytes:
        """Return what is stored for a field of this value, in this record."""
        key = self._newest
        return key.prefix + key.cipher(selector).encrypt(_FILLER + value, [name.encode()])

    def open(self, selector: str, name: str, stored: bytes) -> bytes:
        """Return the value of a stored field; raises `SealError` unless it was sealed for this field of this record."""
        key = self._keys.get(stored[:_PREFIX_BYTES])
        if key is None:
            if stored[: len(_VERSION)] != _VERSION:
                raise SealError(
                    "not_sealed", f"its field {name!r} was written without EncryptedCodec, or by something else"
                )
            unknown = stored[len(_VERSION) : _PREFIX_BYTES].hex()
            raise SealError(
                "unknown_key", f"its field {name!r} was sealed with the key {unknown}, and {self!r} has it not"
            )
        try:
            return key.cipher(selector).decrypt(stored[_PREFIX_BYTES:], [name.encode()])[len(_FILLER) :]
        except key.invalid:
            raise SealError(
                "damaged",
                f"its field {name!r} was not sealed for this place: damaged, or moved from another field or record",
            ) from None


class SealError(Exception):
    """What is stored does not open; `reason` is a code."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class _Key:
    """A master key: its id, and the ciphers of the sessions."""

    def __init__(self, secret: bytes, cipher: "type[AESSIV]") -> None:
        from cryptography.exceptions import InvalidTag

        identity = hmac.digest(secret, _KEY_ID, "sha256")[:_KEY_ID_BYTES]
        self.name = identity.hex()
        self.prefix = _VERSION + identity
        self.invalid = InvalidTag

        def cipher_of(selector: str) -> "AESSIV":
            return cipher(hmac.digest(secret, _SESSION_KEY + selector.encode(), "sha512"))

        self.cipher = lru_cache(_KEPT_CIPHERS)(cipher_of)


def _cipher() -> "type[AESSIV]":
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.ciphers.aead import AESSIV
    except ImportError as error:
        raise ConfigurationError(
            "EncryptedCodec needs the package cryptography: pip install 'server-session[encryption]'"
        ) from error
    try:
        AESSIV(bytes(64))
    except UnsupportedAlgorithm as error:
        raise ConfigurationError(
            "EncryptedCodec needs AES-SIV, which the OpenSSL beneath this cryptography has not: install "
            "cryptography's own wheel, or one built on OpenSSL 3"
        ) from error
    return AESSIV


def _secret(place: int, given: object) -> bytes:
    what = f"keys[{place}] of EncryptedCodec"
    if isinstance(given, str):
        # Either alphabet, padded or not: `openssl rand -base64 32` makes good keys too.
        text = given.strip().rstrip("=").replace("-", "+").replace("_", "/")
        try:
            secret = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except ValueError:
            raise ConfigurationError(f"{what} is no base64url text: {_MAKE_A_KEY}, or give the bytes") from None
    elif isinstance(given, bytes | bytearray):
        secret = bytes(given)
    else:
        raise ConfigurationError(f"{what} is {type(given).__name__!r}, not bytes or text: {_MAKE_A_KEY}")
    if len(secret) < KEY_BYTES:
        raise ConfigurationError(f"{what} has {len(secret)} bytes, fewer than {KEY_BYTES}: {_MAKE_A_KEY}")
    return secret


def sealed(store: SessionStore, codec: EncryptedCodec, signals: Signals) -> SessionStore:
    """Return the store that seals what `store` holds; raises `ConfigurationError` unless `codec` can."""
    if not isinstance(codec, EncryptedCodec):
        raise ConfigurationError(f"codec is an EncryptedCodec([key]), not {type(codec).__name__!r}")
    return SealedStore(store, codec, signals)


class SealedStore(StoreOver):
    """The whole contract over plain fields, on a store that sees none of their values."""

    def __init__(self, store: SessionStore, codec: EncryptedCodec, signals: Signals) -> None:
        super().__init__(store)
        self._codec = codec
        self._signals = signals

    async def get(self, key: str, expect: Expect, touch: bool = True) -> Fields | Refused:
        """Return the fields, opened; raises `RecordError` where they do not open."""

        async def touched(stored: Fields, plain: Fields, exact: Expect) -> Fields | Refused:
            if not touch:
                return plain
            if stale := self._stale(stored):
                # A merge is a touch: the session's next request finds it sealed by the newest key, and reads once.
                fresh = self._seal(key, plain, stale)
                outcome = await self._store.merge(key, fresh, (), {**stale, **exact})
                return plain if outcome is APPLIED else outcome
            answer = await self._store.get(key, exact)
            return answer if isinstance(answer, Outcome) else self._open(key, answer)

        if _IN_HEAD.isdisjoint(expect):
            answer = await self._store.get(key, self._expect(key, expect), touch)
            if not isinstance(answer, Outcome):
                return self._open(key, answer)
            if self._is_final(answer):
                return answer
        return await self._compare(key, expect, touched)

    async def set(self, key: str, fields: Fields, lifetime: Lifetime, expect: Expect | None = None) -> Outcome:
        """Seal and write the whole record."""
        fresh = self._seal(key, fields, (HEAD, *fields))

        async def write(_stored: Fields, _plain: Fields, exact: Expect) -> Outcome:
            return await self._store.set(key, fresh, lifetime, exact)

        if expect is None:
            return await self._store.set(key, fresh, lifetime, None)
        if _IN_HEAD.isdisjoint(expect):
            outcome = await self._store.set(key, fresh, lifetime, self._expect(key, expect))
            if self._is_final(outcome):
                return outcome
        return await self._compare(key, expect, write)

    async def merge(
        self,
        key: str,
        changed: Mapping[str, bytes],
        removed: Collection[str],
        expect: Expect,
        lifetime: Lifetime | None = None,
    ) -> Outcome:
        """Seal and write the changed fields."""

        async def write(stored: Fields, plain: Fields, exact: Expect) -> Outcome:
            for name in removed:
                plain.pop(name, None)
            plain.update(changed)
            stale = {name: value for name, value in self._stale(stored).items() if name == HEAD or name in plain}
            if not _IN_HEAD.isdisjoint((*changed, *removed)):
                stale[HEAD] = stored[HEAD]
            fresh = self._seal(key, plain, (*changed, *stale))
            gone = [name for name in removed if name not in _IN_HEAD]
            return await self._store.merge(key, fresh, gone, {**stale, **exact}, lifetime)

        # Where keys change, a field that was expected and found tells that the newest key sealed the whole record.
        # Without one it is read, and sealed anew: else an owner's index could keep what an old key sealed for ever.
        known = not self._codec.is_rotating or any(value is not None for value in expect.values())
        if known and _IN_HEAD.isdisjoint((*expect, *changed, *removed)):
            fresh = self._seal(key, changed, changed)
            outcome = await self._store.merge(key, fresh, removed, self._expect(key, expect), lifetime)
            if self._is_final(outcome):
                return outcome
        return await self._compare(key, expect, write)

    def _is_final(self, outcome: Outcome) -> bool:
        # One key seals a value in one way. With several, a value that is not found may be there, sealed by another.
        return outcome is not CONFLICT or not self._codec.is_rotating

    async def _compare(
        self, key: str, expect: Expect, act: Callable[[Fields, Fields, Expect], Awaitable[T]]
    ) -> T | Refused:
        """Read the record, compare what it says, and act if the very bytes that were read are still there."""
        for _ in range(_TRIES):
            stored = await self._store.get(key, {}, False)
            if isinstance(stored, Outcome):
                return stored
            plain = self._open(key, stored)
            if not holds(plain, expect):
                return CONFLICT
            names = (HEAD if name in _IN_HEAD else name for name in expect)
            outcome = await act(stored, plain, {name: stored.get(name) for name in names})
            if outcome is not CONFLICT:
                return outcome
        raise StoreError(f"the store said CONFLICT to {_TRIES} expectations in a row that its record had just met")

    def _expect(self, key: str, expect: Expect) -> Expect:
        seal = self._codec.seal
        return {name: None if value is None else seal(key, name, value) for name, value in expect.items()}

    def _seal(self, key: str, fields: Mapping[str, bytes], names: Iterable[str]) -> Fields:
        """Return what is stored for these names of a record's fields."""
        seal = self._codec.seal
        fresh = {name: seal(key, name, fields[name]) for name in names if name not in _IN_HEAD}
        if HEAD in names:
            fresh[HEAD] = seal(key, HEAD, _encode_head((fields.get(CREATED), fields.get(OWNER))))
        return fresh

    def _stale(self, stored: Fields) -> Fields:
        is_stale = self._codec.is_stale
        return {name: value for name, value in stored.items() if is_stale(value)}

    def _open(self, key: str, stored: Fields) -> Fields:
        """Return the fields of a record as the core wrote them."""
        try:
            return self._opened(key, stored)
        except SealError as error:
            self._signals.send("unreadable", short_digest(key), error.reason, str(error))
            raise RecordError(f"a record of the store does not open: {error}") from None

    def _opened(self, key: str, stored: Fields) -> Fields:
        unseal = self._codec.open
        fields = {name: unseal(key, name, value) for name, value in stored.items()}
        if HEAD not in fields:
            raise SealError("no_head", "the field that says when it was founded and whose it is was taken out")
        # What opens was sealed by us, so it can be decoded.
        created, owner = _decode_head(fields.pop(HEAD))
        if created is not None:
            fields[CREATED] = created
        if owner is not None:
            fields[OWNER] = owner
        return fields
