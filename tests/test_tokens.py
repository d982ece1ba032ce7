import base64
import hashlib
import json
import struct

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from server_session import StoreError
from server_session._tokens import (
    Credential,
    issue_token,
    junk_token,
    read_token,
    short_digest,
)

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
SELECTOR = "s" * 24
MINE = Credential.found(SELECTOR)
OTHERS = Credential.found(SELECTOR)
NOW = 1_800_000_000.75
TOKEN = issue_token(MINE, "", NOW)

credentials = st.text(ALPHABET, min_size=64, max_size=64)


def verify_token(credential: Credential, scope: str, text: str) -> bool:
    token = read_token(text)
    return token is not None and token.is_of(credential, scope)


def raw(token: str) -> bytes:
    return base64.urlsafe_b64decode(token + "==")


def spelt(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


# --- the cookie's two parts


@given(credentials)
def test_a_cookie_of_64_characters_is_a_selector_of_24_and_a_verifier_of_40(value):
    credential = Credential.parse(value)
    assert credential is not None
    assert (credential.selector, credential.verifier) == (value[:24], value[24:])
    assert credential.value == value


@given(st.text())
@example("A" * 63)
@example("A" * 65)
@example("A" * 64 + "\n")
@example("A" * 63 + "=")
@example("A" * 63 + "+")
@example("A" * 63 + "/")
@example("A" * 63 + "é")
@example("A" * 63 + "\N{FULLWIDTH DIGIT ONE}")
@example("A" * 63 + "\ud800")
def test_any_other_text_is_no_credential_and_never_an_error(value):
    is_one = len(value) == 64 and set(value) <= set(ALPHABET)
    assert (Credential.parse(value) is not None) == is_one


def test_each_session_gets_a_verifier_of_its_own_under_the_selector_that_was_given():
    founded = [Credential.found(SELECTOR) for _ in range(1000)]
    assert len({credential.verifier for credential in founded}) == 1000
    for credential in founded:
        parsed = Credential.parse(credential.value)
        assert parsed is not None
        assert parsed.digest() == credential.digest()


@pytest.mark.parametrize("selector", ["", "s" * 23, "s" * 25, "s" * 23 + "\n", "s" * 23 + "/", "s" * 23 + "é"])
def test_a_selector_that_is_not_24_characters_of_base64url_is_refused_and_not_repeated(selector):
    with pytest.raises(StoreError, match="24 characters of base64url") as caught:
        Credential.found(selector)
    assert not selector or selector not in str(caught.value)


def test_the_store_gets_a_digest_of_selector_and_verifier_as_json_text():
    digest = hashlib.sha256((MINE.selector + MINE.verifier).encode()).digest()
    assert raw(json.loads(MINE.digest())) == digest
    assert MINE.verifier.encode() not in MINE.digest()


@given(credentials, st.integers(0, 64 - 1), st.sampled_from(ALPHABET))
def test_a_credential_of_one_other_character_has_another_digest(value, place, character):
    changed = value[:place] + character + value[place + 1 :]
    one, other = Credential.parse(value), Credential.parse(changed)
    assert (one.digest() == other.digest()) == (value == changed)


@given(st.text())
def test_what_logs_call_a_session_is_short_and_tells_nothing_of_its_selector(selector):
    name = short_digest(selector)
    assert len(name) == 10
    assert set(name) <= set("0123456789abcdef")


# --- tokens


@given(credentials, st.text(st.characters(exclude_categories=["Cs"])), st.floats(0, 2**40))
def test_a_token_verifies_for_the_credential_and_the_scope_that_it_was_issued_for(value, scope, now):
    credential = Credential.parse(value)
    token = issue_token(credential, scope, now)
    assert len(token) == 70
    assert set(token) <= set(ALPHABET)
    assert verify_token(credential, scope, token)


@given(st.text(), st.sampled_from(["", "POST /transfer"]))
@example("é" * 70, "")
@example("\ud800" * 70, "")
@example("\N{FULLWIDTH LATIN CAPITAL LETTER A}" * 70, "")
@example("\0" * 70, "")
@example("A" * 69, "")
@example("A" * 70, "")
@example("=" * 70, "")
@example("A" * 68 + "==", "")
@example("A" * 1_000_000, "")
def test_no_other_text_verifies_and_none_is_an_error(token, scope):
    assert verify_token(MINE, scope, token) is False


@given(st.text(ALPHABET + "+/=\n ", min_size=70, max_size=70))
def test_no_text_of_a_token_s_length_and_letters_verifies_that_was_not_issued(token):
    assert verify_token(MINE, "", token) is False


@given(st.integers(0, 69), st.sampled_from(ALPHABET + "+/= \n\té"))
def test_a_token_with_one_other_character_does_not_verify(place, character):
    changed = TOKEN[:place] + character + TOKEN[place + 1 :]
    assert verify_token(MINE, "", changed) == (changed == TOKEN)


@pytest.mark.parametrize("cut", range(1, 70))
def test_a_token_cut_short_at_either_end_does_not_verify(cut):
    assert not verify_token(MINE, "", TOKEN[:-cut])
    assert not verify_token(MINE, "", TOKEN[cut:])


def test_text_of_another_length_is_not_even_decoded(monkeypatch):
    def never(*_: object, **__: object) -> bytes:
        raise AssertionError("it decodes whatever comes")

    monkeypatch.setattr(base64, "b64decode", never)
    for length in (0, 69, 71, 1_000_000):
        assert not verify_token(MINE, "", "A" * length)


@pytest.mark.parametrize("more", ["=", "==", " ", "\n", "\0", "A", "é"])
def test_a_token_with_something_before_or_behind_does_not_verify(more):
    assert not verify_token(MINE, "", TOKEN + more)
    assert not verify_token(MINE, "", more + TOKEN)
    assert not verify_token(MINE, "", (TOKEN + more)[-70:])
    assert not verify_token(MINE, "", (more + TOKEN)[:70])


def test_of_the_sixteen_spellings_of_the_same_bytes_only_the_one_that_was_issued_verifies():
    # 70 characters are 420 bits, of which the last four are nobody's.
    last = ALPHABET.index(TOKEN[-1])
    spellings = [TOKEN[:-1] + ALPHABET[last & ~0xF | spare] for spare in range(16)]
    assert {raw(spelling) for spelling in spellings} == {raw(TOKEN)}
    assert [spelling for spelling in spellings if verify_token(MINE, "", spelling)] == [TOKEN]


def test_the_letters_of_the_other_base64_do_not_verify():
    tokens = (issue_token(MINE, "", NOW) for _ in range(1000))
    token = next(token for token in tokens if "-" in token and "_" in token)
    assert verify_token(MINE, "", token)
    assert not verify_token(MINE, "", token.replace("-", "+"))
    assert not verify_token(MINE, "", token.replace("_", "/"))


@given(st.binary(min_size=1, max_size=52).filter(any))
def test_a_token_masked_anew_does_not_verify(mask):
    # What an XOR pad would let anybody do to a used token, to make it look unused.
    content = raw(TOKEN)
    padded = mask.ljust(len(content), b"\0")
    assert not verify_token(MINE, "", spelt(bytes(a ^ b for a, b in zip(content, padded, strict=True))))
    half = len(content) // 2
    twice = (mask[:half].ljust(half, b"\0")) * 2
    if any(twice):
        assert not verify_token(MINE, "", spelt(bytes(a ^ b for a, b in zip(content, twice, strict=True))))


def test_the_nonce_of_one_token_does_not_go_with_the_tag_of_another():
    other = issue_token(MINE, "", NOW)
    nonce, tag = raw(TOKEN)[:20], raw(other)[20:]
    assert not verify_token(MINE, "", spelt(nonce + tag))


def test_a_token_of_another_verifier_does_not_verify_under_the_same_selector():
    assert not verify_token(OTHERS, "", TOKEN)
    assert not verify_token(MINE, "", issue_token(OTHERS, "", NOW))


@given(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")))
@example("", "POST /transfer")
@example("POST /transfer", "POST /transfer/")
@example("POST /a", "POST /a\0")
def test_a_token_verifies_for_no_scope_but_its_own(scope, other):
    assert verify_token(MINE, other, issue_token(MINE, scope, NOW)) == (scope == other)


def test_1000_tokens_share_no_8_characters_beyond_the_time_that_they_begin_with():
    # What BREACH compares: text that comes back the same in each response.
    seen: set[str] = set()
    for _ in range(1000):
        token = issue_token(MINE, "", NOW)[6:]
        pieces = {token[place : place + 8] for place in range(len(token) - 7)}
        assert not seen & pieces
        seen |= pieces


@given(st.floats(0, 2**32 - 1))
def test_a_token_begins_with_the_second_that_it_was_issued_in(now):
    assert struct.unpack_from(">I", raw(issue_token(MINE, "", now))) == (int(now),)


def test_junk_has_a_token_s_form_and_does_not_verify():
    junk = {junk_token() for _ in range(100)}
    assert len(junk) == 100
    assert all(len(token) == 70 and set(token) <= set(ALPHABET) for token in junk)
    assert not any(verify_token(MINE, "", token) for token in junk)


def test_a_credential_shows_nothing_of_itself_in_a_traceback():
    shown = f"{MINE!r} {MINE}"
    assert MINE.selector not in shown
    assert MINE.verifier not in shown
    assert short_digest(MINE.selector) in shown


def test_no_encoder_takes_a_credential_for_data():
    with pytest.raises(TypeError):
        msgspec.json.encode(MINE)
    assert not hasattr(MINE, "__rich_repr__")
