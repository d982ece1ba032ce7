"""A session of another library, taken over once.

    read      what the other library holds of it
    claim     which session of ours takes its place, under a hash of the old key: whoever writes that first has chosen
    found     this session, if nobody has yet
    end       the old one, where it is kept on a server
    taken     noted in the claim: for a minute others that bring the old cookie get the same session, and then nobody

Each step may be taken by several requests at once, and a claim that is not taken by any later one: who dies between
two leaves nothing undone. Until it is taken no browser has the new cookie. The claim holds no credential: that is made
of the claim and of the old key, which only a bearer of the old cookie has.
"""

import hashlib
import hmac
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from server_session import _record as record
from server_session._base64url import base64url
from server_session._codec import encode_fields
from server_session._cookies import RequestFacts
from server_session._policy import Policy
from server_session._readers import Reader
from server_session._record import CLAIM, MARK_SECONDS, TAKEN
from server_session._tokens import Credential, short_digest
from server_session.exceptions import SerializationError
from server_session.stores._base import APPLIED, Fields, Lifetime, Outcome

__all__ = ["Offer", "find_offer", "take"]

_LOG: Final = logging.getLogger("server_session")
_LABEL: Final = b"server-session adoption\0"
_VERIFIER_BYTES: Final = 30


class Offer(NamedTuple):
    """A session of another library that can be taken over, or is being taken over."""

    reader: Reader
    key: str
    fields: Fields
    """What comes along; nothing where the other library has it no more."""
    left: Sequence[SerializationError]
    """The errors that name the rest."""
    claim: Fields | None


async def find_offer(policy: Policy, readers: Sequence[Reader], request: RequestFacts) -> Offer | None:
    """Return what the request brings of the first reader that finds exactly one session in it."""
    for reader in readers:
        found = [offer for key in reader.keys_in(request) if (offer := await _offer(policy, reader, key))]
        if len(found) == 1:
            return found[0]
    return None


async def _offer(policy: Policy, reader: Reader, key: str) -> Offer | None:
    # The session before the claim: where another request ends the old session in between, its claim is found.
    fields, left = _encoded(await reader.read(key) or {})
    claim = await _claim(policy, key) if _counts_once(policy, reader, fields) else None
    if (excess := policy.excess_of({}, fields, ())) is not None:
        _LOG.warning("a session of another library is not taken over: %s", excess)
        return None
    is_over = not fields if claim is None else _is_spent(policy, claim)
    return None if is_over else Offer(reader, key, fields, left, claim)


async def take(policy: Policy, offer: Offer) -> Credential | None:
    """Return the credential of the session that takes its place, founded if it was not; `None` where it is too late."""
    store, key, claim = policy.store, offer.key, offer.claim
    if not _counts_once(policy, offer.reader, offer.fields):
        credential = Credential.found(store.id())
        await _found(policy, credential, offer)
        _tell(policy, credential, offer)
        return credential
    if claim is None:
        fresh = {CLAIM: record.claim(store.id(), os.urandom(_VERIFIER_BYTES))}
        # A signature counts by whole seconds, and by another machine's clock than the store's.
        age = offer.reader.max_age + MARK_SECONDS
        outcome = await store.set(_claim_key(key), fresh, Lifetime(age, age), None)
        claim = fresh if outcome is APPLIED else await _claim(policy, key)
        if claim is None or _is_spent(policy, claim):
            return None
    credential = _credential(key, claim)
    if TAKEN in claim:
        return credential
    is_founded = bool(offer.fields) and await _found(policy, credential, offer)
    await offer.reader.end(key)
    if await store.merge(_claim_key(key), {TAKEN: record.number(policy.now())}, (), {TAKEN: None}) is APPLIED:
        _tell(policy, credential, offer)
    elif is_founded and ((claim := await _claim(policy, key)) is None or _is_spent(policy, claim)):
        # This request was stopped for a minute or more: the session was ended meanwhile, and came back by this.
        await store.destroy(credential.selector)
        return None
    return credential


def _counts_once(policy: Policy, reader: Reader, fields: Fields) -> bool:
    """Tell whether the cookie is one visitor's, or at least one user's, so that one session takes its place."""
    return reader.is_unique or not fields or policy.is_log_in(fields, fields)


async def _found(policy: Policy, credential: Credential, offer: Offer) -> bool:
    # No time of a log-in: when the user last proved who they are nobody knows.
    own = record.first_of(credential.digest(), policy.now())
    lifetime = policy.lifetime_of(written=offer.fields)
    is_founded = await policy.store.set(credential.selector, {**offer.fields, **own}, lifetime, None) is APPLIED
    if is_founded and offer.left:
        _LOG.warning("not all of a session of another library came along: %s", "; ".join(map(str, offer.left)))
    return is_founded


def _tell(policy: Policy, credential: Credential, offer: Offer) -> None:
    policy.signals.send("adopted", short_digest(credential.selector), type(offer.reader).__name__)


async def _claim(policy: Policy, key: str) -> Fields | None:
    answer = await policy.store.get(_claim_key(key), {}, False)
    return None if isinstance(answer, Outcome) else answer


def _is_spent(policy: Policy, claim: Fields) -> bool:
    return TAKEN in claim and policy.now() - record.time_of(claim, TAKEN) >= MARK_SECONDS


def _claim_key(key: str) -> str:
    return record.key_of(_LABEL, key)


def _credential(key: str, claim: Fields) -> Credential:
    selector, nonce = record.claim_of(claim)
    verifier = hmac.digest(key.encode(), _LABEL + f"{selector}{nonce}".encode(), hashlib.sha256)[:_VERIFIER_BYTES]
    return Credential(selector, base64url(verifier).decode("ascii"))


def _encoded(data: Mapping[str, Any]) -> tuple[Fields, Sequence[SerializationError]]:
    """Return the fields of what a session here can hold, and the errors that name the rest."""
    try:
        return encode_fields(data), ()
    except SerializationError:
        fields: Fields = {}
        left: list[SerializationError] = []
        for name, value in data.items():
            try:
                fields |= encode_fields({name: value})
            except SerializationError as error:
                left.append(error)
        return fields, left
