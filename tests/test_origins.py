import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from server_session._origins import (
    is_at,
    origin_in_header,
    origin_of_url,
    origins_of,
    trusted_origins_of,
)
from server_session.exceptions import ConfigurationError

# --- settings


@pytest.mark.parametrize(
    "written, origin",
    [
        ("https://shop.example", "https://shop.example"),
        ("https://shop.example:443", "https://shop.example"),
        ("https://shop.example:80", "https://shop.example:80"),
        ("https://shop.example:8443", "https://shop.example:8443"),
        ("http://shop.example:80", "http://shop.example"),
        ("http://shop.example:443", "http://shop.example:443"),
        ("http://localhost:8000", "http://localhost:8000"),
        ("http://127.0.0.1", "http://127.0.0.1"),
        ("http://[::1]:80", "http://[::1]"),
        ("https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443"),
        ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
        ("https://shop.example.", "https://shop.example."),
        ("https://a_b.example:65535", "https://a_b.example:65535"),
    ],
)
def test_an_origin_is_kept_as_browsers_write_it_without_its_schemes_own_port(written, origin):
    assert origins_of(written) == (origin,)
    assert trusted_origins_of(written) == (origin,)
    assert origin_in_header(written.encode()) == origin


def test_one_several_or_no_origins_are_given():
    assert origins_of(None) == ()
    assert origins_of(()) == ()
    assert origins_of("https://shop.example") == ("https://shop.example",)
    assert origins_of(["https://shop.example", "https://www.shop.example"]) == (
        "https://shop.example",
        "https://www.shop.example",
    )
    assert trusted_origins_of(None) == ()
    assert trusted_origins_of({"https://pay.example"}) == ("https://pay.example",)


def test_own_origins_are_all_https_or_all_http():
    with pytest.raises(ConfigurationError, match="share one cookie"):
        origins_of(["https://shop.example", "http://shop.example"])
    assert len(origins_of(["http://shop.example", "http://www.shop.example"])) == 2


def test_trusted_origins_may_have_any_scheme_and_own_ones_are_of_the_web():
    assert trusted_origins_of(["https://pay.example", "http://localhost", "capacitor://localhost"]) == (
        "https://pay.example",
        "http://localhost",
        "capacitor://localhost",
    )
    for origin in ("capacitor://localhost", "ws://shop.example", "wss://shop.example"):
        with pytest.raises(ConfigurationError, match="scheme"):
            origins_of(origin)


@pytest.mark.parametrize("read, name", [(origins_of, "origin "), (trusted_origins_of, "trusted origin ")])
@pytest.mark.parametrize(
    "written, hint",
    [
        ("", "scheme"),
        ("shop.example", "scheme"),
        ("//shop.example", "scheme"),
        ("https:shop.example", "host"),
        ("https://", "host"),
        ("https:///", "host"),
        ("null", "scheme"),
        ("file://", "host"),
        ("https://shop.example/", "slash"),
        ("https://shop.example/a", "path"),
        ("https://shop.example?", "query"),
        ("https://shop.example#", "query"),
        ("https://user@shop.example", "user"),
        ("https://*.shop.example", "pattern"),
        ("https://Shop.example", "lower case"),
        ("https://b\xfccher.example", "ASCII"),
        ("https://shop.example ", "blanks"),
        (" https://shop.example", "blanks"),
        ("https://shop.example\n", "blanks"),
        ("https://sh\top.example", "blanks"),
        ("https://-shop.example", "browsers"),
        ("https://.shop.example", "browsers"),
        ("https://shop.example..", "browsers"),
        ("https://shop.example:", "browsers"),
        ("https://shop.example:0", "browsers"),
        ("https://shop.example:0443", "browsers"),
        ("https://shop.example:65536", "browsers"),
        ("https://shop.example:443:443", "browsers"),
        ("https://[::1", "IPv6"),
        (b"https://shop.example", "text"),
        ([b"https://shop.example"], "text"),
        ([None], "text"),
        (443, "text"),
        (iter(["https://shop.example"]), "text"),
    ],
    ids=repr,
)
def test_what_no_browser_would_send_is_an_error_that_says_what_to_write(read, name, written, hint):
    with pytest.raises(ConfigurationError) as raised:
        read(written)
    assert str(raised.value).startswith(name)
    assert hint in str(raised.value)


# --- headers


@pytest.mark.parametrize(
    "value, origin",
    [
        (b"https://shop.example", "https://shop.example"),
        (b" \thttps://shop.example\t ", "https://shop.example"),
        (b"HTTPS://Shop.EXAMPLE:443", "https://shop.example"),
        (b"https://[2001:DB8::A]", "https://[2001:db8::a]"),
        (b"moz-extension://7F2b", "moz-extension://7f2b"),
        (b"null", "null"),
        (b" null ", "null"),
        (b"NULL", None),
        (b"", None),
        (b"https://shop.example/", None),
        (b"https://user@shop.example", None),
        (b"https://shop.example\n", None),
        (b"https://shop.example\x0b", None),
        (b"https://shop.example\xa0", None),
        (b"https://shop.example\x85", None),
        ("https://b\xfccher.example".encode(), None),
        ("https://\u212a.example".encode(), None),
        (b"https://shop.example:00443", None),
        (b"https://shop.example:99999", None),
        (b"https://shop.example:\xb2", None),
    ],
)
def test_an_origin_header_is_one_origin_in_ascii_or_null_or_nothing(value, origin):
    assert origin_in_header(value) == origin


@pytest.mark.parametrize(
    "value, origin",
    [
        (b"https://shop.example", "https://shop.example"),
        (b"https://shop.example/a/b?c#d", "https://shop.example"),
        (b"https://shop.example?c", "https://shop.example"),
        (b"https://shop.example#d", "https://shop.example"),
        (b"HTTPS://Shop.Example:443/A", "https://shop.example"),
        (b" \thttps://shop.example\t ", "https://shop.example"),
        (b"https://shop.example:8443/", "https://shop.example:8443"),
        (b"http://[::1]:80/", "http://[::1]"),
        (b"https://shop.example/caf\xe9\n", "https://shop.example"),
        (b"https://evil.test/https://shop.example/", "https://evil.test"),
        (b"https://evil.test?https://shop.example/", "https://evil.test"),
        (b"https://evil.test#@shop.example/", "https://evil.test"),
        (b"", None),
        (b"about:blank", None),
        (b"data:text/html,x", None),
        (b"/cart", None),
        (b"//shop.example/", None),
        (b"shop.example/", None),
        (b"https:///shop.example/", None),
        (b"https://user@shop.example/", None),
        (b"https://shop.example@evil.test/", None),
        (b"https://evil.test\\@shop.example/", None),
        (b"https://shop.example\\.evil.test/", None),
        (b"https://sh\xf6p.example/", None),
        (b"https://shop.example\n/", None),
        (b"https://shop.example:/", None),
        (b"https://shop.example:a/", None),
        (b"https://shop.example:99999/", None),
    ],
)
def test_a_referer_has_the_origin_of_its_url_or_none(value, origin):
    assert origin_of_url(value) == origin


@pytest.mark.parametrize(
    "origin, host, same",
    [
        ("https://shop.example", "shop.example", True),
        ("https://shop.example", "SHOP.example", True),
        ("https://shop.example", " shop.example\t", True),
        ("https://shop.example", "shop.example:443", True),
        ("http://shop.example", "shop.example:80", True),
        ("http://[::1]", "[::1]:80", True),
        ("http://[2001:db8::a]", "[2001:DB8::A]", True),
        ("https://shop.example:8443", "shop.example:8443", True),
        ("https://shop.example.", "shop.example.", True),
        ("capacitor://localhost", "localhost", True),
        ("https://shop.example", "shop.example:80", False),
        ("http://shop.example", "shop.example:443", False),
        ("https://shop.example:8443", "shop.example", False),
        ("https://shop.example", "shop.example.", False),
        ("https://shop.example", "www.shop.example", False),
        ("https://shop.example", None, False),
        ("https://shop.example", "", False),
        ("https://shop.example", "user@shop.example", False),
        ("https://shop.example", "shop.example/", False),
        ("https://shop.example", "shop.example,shop.example", False),
        ("https://shop.example", "shop.example\n", False),
        ("https://shop.example", "sh\xf6p.example", False),
        ("https://k.example", "\u212a.example", False),
    ],
)
def test_an_origin_equals_a_host_of_the_same_name_and_port(origin, host, same):
    assert is_at(origin, host) == same


# --- what must hold of all

words = st.text("abz09.-_:/[]@?#*A \x00\n\xe9\u212a", max_size=12)
spellings = st.text() | words.map("https://{}".format)


@given(st.binary() | spellings.map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_in_a_header_are_an_origin_or_none_and_never_an_error(value):
    for read in (origin_in_header, origin_of_url):
        origin = read(value)
        assert origin is None or origin.isascii()
        if origin is not None:
            assert read(origin.encode()) == origin


@given(st.sampled_from(["https://shop.example", "http://[::1]:8000"]), st.text() | words)
def test_any_host_is_an_origin_s_own_or_not_and_never_an_error(origin, host):
    assert not is_at(origin, host) or host.isascii()


@given(spellings)
@example("https://[")
@example("https://shop\u2100.example")
def test_any_text_as_a_setting_is_an_origin_that_its_header_equals_or_a_clear_error(text):
    try:
        (origin,) = trusted_origins_of(text)
    except ConfigurationError:
        return
    assert origin_in_header(text.encode()) == origin
    assert origin_in_header(origin.encode()) == origin
    assert origin_of_url(origin.encode() + b"/") == origin
