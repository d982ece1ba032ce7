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
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from server_session._settings import require
from server_session.exceptions import ConfigurationError, RecordError, StoreError
from server_session.stores._base import APPLIED, CONFLICT, Expect, Fields, Lifetime, Outcome, Refusal, SessionStore
from server_session.stores._over import StoreOver
from server_session.stores._packed import holds

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

__all__ = ["HEAD", "VERSION", "EncryptedCodec", "SealedStore"]

T = TypeVar("T")

HEAD: Final = "\0created"
"""The field that holds what a record is founded with, its time and its owner together: nobody can drop the owner alone.

Every record has one. It has the name of one of the two, which no other field can have.
"""
_OWNER: Final = "\0owner"
_IN_HEAD: Final = frozenset((HEAD, _OWNER))
_encode_head: Final = msgspec.msgpack.Encoder().encode
_decode_head: Final = msgspec.msgpack.Decoder(tuple[bytes | None, bytes | None]).decode

_KEY_BYTES: Final = 32
VERSION: Final = b"\x01"
_PREFIX_BYTES: Final = 5
# OpenSSL before 3.5 seals no empty data.
_FILLER: Final = b"\0"
_KEY_ID: Final = b"server-session key id"
_SESSION_KEY: Final = b"server-session key of a session\0"
# A request asks for its session's key two times or three, and to make it costs as much as to seal four fields.
_KEPT_CIPHERS: Final = 1024

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
        cipher, self._invalid = _cipher()
        if isinstance(keys, str | bytes) or not isinstance(keys, Sequence):
            raise ConfigurationError(
                "the keys of EncryptedCodec are a list, the newest last, as in EncryptedCodec([key]), "
                f"not {type(keys).__name__!r}"
            )
        if not keys:
            raise ConfigurationError(f"EncryptedCodec needs at least one key: {_MAKE_A_KEY}")
        # By the bytes that are before what each key seals.
        self._ciphers: dict[bytes, Callable[[str], AESSIV]] = {}
        for place, given in enumerate(keys):
            secret = _secret(place, given)
            self._newest = (VERSION + hmac.digest(secret, _KEY_ID, "sha256"))[:_PREFIX_BYTES]
            if self._newest in self._ciphers:
                raise ConfigurationError(f"keys[{place}] of EncryptedCodec is there twice: leave one out")
            self._ciphers[self._newest] = _ciphers_of(secret, cipher)

    def __repr__(self) -> str:
        # The ids, for whoever compares processes; a key itself is shown nowhere.
        return f"<EncryptedCodec of the keys {', '.join(map(_id_in, self._ciphers))}>"

    @staticmethod
    def generate_key() -> str:
        """Return a fresh key, as text for a file or a secret's store: 32 random bytes in base64url."""
        return base64.urlsafe_b64encode(os.urandom(_KEY_BYTES)).decode("ascii")

    @property
    def is_rotating(self) -> bool:
        """Whether what is stored may be sealed by another key than the one that seals."""
        return len(self._ciphers) > 1

    def is_stale(self, stored: bytes) -> bool:
        """Tell whether another key than the newest sealed this."""
        return not stored.startswith(self._newest)

    def seal(self, selector: str, name: str, value: bytes) -> bytes:
        """Return what is stored for a field of this value, in this record."""
        prefix = self._newest
        return prefix + self._ciphers[prefix](selector).encrypt(_FILLER + value, [name.encode()])

    def open(self, selector: str, name: str, stored: bytes) -> bytes:
        """Return the value of a stored field; raises `SealError` unless it was sealed for this field of this record."""
        prefix = stored[:_PREFIX_BYTES]
        if not prefix.startswith(VERSION):
            raise SealError(
                "not_sealed", f"its field {name!r} was written without EncryptedCodec, or by something else"
            )
        if prefix not in self._ciphers:
            why = f"its field {name!r} was sealed with the key {_id_in(prefix)}, and {self!r} has it not"
            raise SealError("unknown_key", why)
        try:
            return self._ciphers[prefix](selector).decrypt(stored[_PREFIX_BYTES:], [name.encode()])[len(_FILLER) :]
        except self._invalid:
            why = f"its field {name!r} was not sealed for this place: damaged, or moved from another field or record"
            raise SealError("damaged", why) from None


class SealError(Exception):
    """What is stored does not open: a code, and why."""


def _id_in(prefix: bytes) -> str:
    return prefix.removeprefix(VERSION).hex()


def _ciphers_of(secret: bytes, cipher: "type[AESSIV]") -> Callable[[str], "AESSIV"]:
    """Return what gives each session's cipher under a master key."""

    def cipher_of(selector: str) -> "AESSIV":
        return cipher(hmac.digest(secret, _SESSION_KEY + selector.encode(), "sha512"))

    return lru_cache(_KEPT_CIPHERS)(cipher_of)


def _cipher() -> "tuple[type[AESSIV], type[Exception]]":
    try:
        from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
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
    return AESSIV, InvalidTag


def _secret(place: int, given: object) -> bytes:
    what = f"keys[{place}] of EncryptedCodec"
    if isinstance(given, str):
        # Either alphabet, padded or not: `openssl rand -base64 32` makes good keys too.
        text = given.strip().replace("-", "+").replace("_", "/")
        try:
            secret = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except ValueError:
            raise ConfigurationError(f"{what} is no base64url text: {_MAKE_A_KEY}, or give the bytes") from None
    elif isinstance(given, bytes | bytearray):
        secret = bytes(given)
    else:
        raise ConfigurationError(f"{what} is {type(given).__name__!r}, not bytes or text: {_MAKE_A_KEY}")
    if len(secret) < _KEY_BYTES:
        raise ConfigurationError(f"{what} has {len(secret)} bytes, fewer than {_KEY_BYTES}: {_MAKE_A_KEY}")
    return secret


class SealedStore(StoreOver):
    """The whole contract over plain fields, on a store that sees none of their values.

    Where a record does not open, `unreadable` is told its key, a code, and why in words, and it is a `RecordError`.
    """

    def __init__(self, store: SessionStore, codec: EncryptedCodec, unreadable: Callable[[str, str, str], None]) -> None:
        super().__init__(store)
        require(isinstance(codec, EncryptedCodec), "codec", "an EncryptedCodec([key])", type(codec).__name__)
        self._codec = codec
        self._unreadable = unreadable

    async def get(self, key: str, expect: Expect, touch: bool = True) -> Fields | Refusal:
        """Return the fields, opened."""

        async def read(exact: Expect, stored: Fields, plain: Fields) -> Fields | Refusal:
            if stored and not touch:
                return plain
            if stale := self._stale(stored):
                # A merge is a touch: the session's next request finds it sealed by the newest key, and reads once.
                fresh = self._seal(key, plain, stale)
                outcome = await self._store.merge(key, fresh, (), {**stale, **exact})
                return plain if outcome is APPLIED else outcome
            answer = await self._store.get(key, exact, touch)
            return answer if isinstance(answer, Outcome) else self._open(key, answer)

        return await self._where(key, expect, read, expect)

    async def set(self, key: str, fields: Fields, lifetime: Lifetime, expect: Expect | None = None) -> Outcome:
        """Seal and write the whole record."""
        fresh = self._seal(key, fields, (HEAD, *fields))

        async def write(exact: Expect, _stored: Fields, _plain: Fields) -> Outcome:
            return await self._store.set(key, fresh, lifetime, exact)

        if expect is None:
            return await self._store.set(key, fresh, lifetime, None)
        return await self._where(key, expect, write, expect)

    async def merge(
        self,
        key: str,
        changed: Mapping[str, bytes],
        removed: Collection[str],
        expect: Expect,
        lifetime: Lifetime | None = None,
    ) -> Outcome:
        """Seal and write the changed fields."""
        touched = (*changed, *removed)

        async def write(exact: Expect, stored: Fields, plain: Fields) -> Outcome:
            after = {name: value for name, value in {**plain, **changed}.items() if name not in removed}
            stale = {name: value for name, value in self._stale(stored).items() if name == HEAD or name in after}
            if not _IN_HEAD.isdisjoint(touched):
                stale[HEAD] = stored[HEAD]
            fresh = self._seal(key, after, (*changed, *stale))
            gone = [name for name in removed if name not in _IN_HEAD]
            return await self._store.merge(key, fresh, gone, {**stale, **exact}, lifetime)

        # Where keys change, a field that was expected and found tells that the newest key sealed the whole record.
        # Without one it is read, and sealed anew: else an owner's index could keep what an old key sealed for ever.
        is_known = not self._codec.is_rotating or any(value is not None for value in expect.values())
        return await self._where(key, expect, write, (*expect, *touched) if is_known else _IN_HEAD)

    async def _where(
        self,
        key: str,
        expect: Expect,
        act: Callable[[Expect, Fields, Fields], Awaitable[T]],
        names: Iterable[str],
    ) -> T | Refusal:
        """Call `act` where the record is as expected, with the bytes to expect of it, and it as stored and opened.

        Where its head is not among the names that matter, what is expected is sealed; the record is then not read, and
        given as empty. Else it is read and compared, and the very bytes that were read are what `act` is to expect.
        """
        if _IN_HEAD.isdisjoint(names):
            seal = self._codec.seal
            exact = {name: None if value is None else seal(key, name, value) for name, value in expect.items()}
            outcome = await act(exact, {}, {})
            # One key seals a value in one way. With several, what is not found may be there, sealed by another.
            if outcome is not CONFLICT or not self._codec.is_rotating:
                return outcome
        for _ in range(_TRIES):
            stored = await self._store.get(key, {}, False)
            if isinstance(stored, Outcome):
                return stored
            plain = self._open(key, stored)
            if not holds(plain, expect):
                return CONFLICT
            expected = (HEAD if name in _IN_HEAD else name for name in expect)
            outcome = await act({name: stored.get(name) for name in expected}, stored, plain)
            if outcome is not CONFLICT:
                return outcome
        raise StoreError(f"the store said CONFLICT to {_TRIES} expectations in a row that its record had just met")

    def _seal(self, key: str, fields: Mapping[str, bytes], names: Collection[str]) -> Fields:
        """Return what is stored for these names of a record's fields."""
        seal = self._codec.seal
        fresh = {name: seal(key, name, fields[name]) for name in names if name not in _IN_HEAD}
        if HEAD in names:
            fresh[HEAD] = seal(key, HEAD, _encode_head((fields.get(HEAD), fields.get(_OWNER))))
        return fresh

    def _stale(self, stored: Fields) -> Fields:
        return {name: value for name, value in stored.items() if self._codec.is_stale(value)}

    def _open(self, key: str, stored: Fields) -> Fields:
        """Return the fields of a record as the core wrote them."""
        try:
            unseal = self._codec.open
            fields = {name: unseal(key, name, value) for name, value in stored.items()}
        except SealError as error:
            raise self._does_not_open(key, *error.args) from None
        if HEAD not in fields:
            why = "the field that says when it was founded and whose it is was taken out"
            raise self._does_not_open(key, "no_head", why)
        # What opens was sealed by us, so it can be decoded.
        created, owner = _decode_head(fields.pop(HEAD))
        if created is not None:
            fields[HEAD] = created
        if owner is not None:
            fields[_OWNER] = owner
        return fields

    def _does_not_open(self, key: str, reason: str, why: str) -> RecordError:
        self._unreadable(key, reason, why)
        return RecordError(f"a record of the store does not open: {why}")
