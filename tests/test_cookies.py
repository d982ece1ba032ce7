import hashlib
import hmac
import http.cookies
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server_session._cookies import CookieHandler, CookieTransport, Header, RequestFacts, cookie_values
from server_session.exceptions import ConfigurationError

GOOD = "k3_-" * 16
OTHER = "zZ09" * 16
GOOD_PAIR = f"session={GOOD}".encode()
NOW = 1_800_000_000.25


@dataclass(frozen=True)
class Request:
    cookie_headers: Sequence[bytes] = ()
    scheme: str = "https"
    host: str | None = "shop.example.com"
    path: str = "/"
    headers: dict[bytes, list[bytes]] = field(default_factory=dict)

    def header_values(self, name: bytes) -> Sequence[bytes]:
        return self.headers.get(name, [])


class Browser:
    """As much of RFC 6265bis's storage model as these tests turn on."""

    def __init__(self) -> None:
        self.jar: dict[tuple[str, str, bool, str], str] = {}

    def receive(self, host: str, headers: list[Header]) -> None:
        for header, value in headers:
            assert header == b"set-cookie"
            pair, *attributes = [part.strip() for part in value.decode("ascii").split(";")]
            name, _, content = pair.partition("=")
            said = {key.lower(): text for key, _, text in (attribute.partition("=") for attribute in attributes)}
            domain = said.get("domain")
            if domain is not None and host != domain and not host.endswith("." + domain):
                continue
            place = (name, domain or host, domain is None, said["path"])
            if said.get("max-age") == "0":
                self.jar.pop(place, None)
            else:
                self.jar[place] = content

    def cookie_header(self, host: str, path: str) -> list[bytes]:
        sent = [
            (place, content)
            for place, content in self.jar.items()
            if (host == place[1] or (not place[2] and host.endswith("." + place[1])))
            and (path == place[3] or path.startswith(place[3].rstrip("/") + "/"))
        ]
        sent.sort(key=lambda cookie: -len(cookie[0][3]))
        return ["; ".join(f"{place[0]}={content}" for place, content in sent).encode()] if sent else []


def only(headers: list[Header]) -> str:
    ((name, value),) = headers
    assert name == b"set-cookie"
    return value.decode("ascii")


# The parser


@pytest.mark.parametrize(
    "neighbour",
    [
        b"bad[]=1",
        b'"',
        b'a="',
        b'a="x',
        b'a=x"y',
        b"a='",
        b"noequals",
        b"",
        b" ",
        b"=",
        b"=empty-name",
        b"==",
        b"$Version=1",
        b'$Path="/"',
        b"\xff\xfe=\x80",
        "名前=値".encode(),
        b"a=\x00",
        b"\x00",
        b"a=1,b=2",
        b"a=\\",
        b"a={}[]()<>@:/?",
        b"a=%3B%00%zz",
        b"\r\n",
        b"a=\r\nSet-Cookie: b=1",
        b"j=" + b"x" * 4096,
        b"x" * 4096,
        b"session",
        b"SESSION=1",
        b"sessionid=1",
        b"my-session=1",
    ],
)
def test_a_broken_neighbour_hides_no_good_cookie_and_adds_none(neighbour: bytes) -> None:
    for header in (
        neighbour + b"; " + GOOD_PAIR,
        GOOD_PAIR + b"; " + neighbour,
        neighbour + b";" + GOOD_PAIR + b";" + neighbour,
    ):
        assert cookie_values([header], b"session") == [GOOD.encode()]


def test_values_keep_their_order_across_pairs_and_headers() -> None:
    headers = [b"session=1; a=b; session=2", b"c=d", b"session=3;session=2"]
    assert cookie_values(headers, b"session") == [b"1", b"2", b"3", b"2"]


def test_crumbs_of_http2_are_read_each() -> None:
    assert cookie_values([b"a=1", b"b=2", GOOD_PAIR, b"c=3"], b"session") == [GOOD.encode()]


def test_a_header_of_thousands_of_cookies_is_read_to_its_end() -> None:
    assert cookie_values([b"a=1; " * 5000 + GOOD_PAIR], b"session") == [GOOD.encode()]


def test_space_and_tab_around_name_and_value_are_trimmed_as_the_browser_trimmed_them() -> None:
    assert cookie_values([b" \tsession\t = \t1 2\t ;x=y"], b"session") == [b"1 2"]


def test_a_value_is_neither_unquoted_nor_decoded() -> None:
    headers = [b'session="1"; session=%41; session=a=b==; session=a\\073; session=']
    assert cookie_values(headers, b"session") == [b'"1"', b"%41", b"a=b==", b"a\\073", b""]


@pytest.mark.parametrize(
    "forged",
    [
        "\u2000__Host-session".encode(),
        "__Host-session\u2000".encode(),
        b"\xa0__Host-session",
        b"\xc2\xa0__Host-session",
        b"\x85__Host-session",
        b"\x0b__Host-session",
        b"\x0c__Host-session",
        b"\x1c__Host-session",
        b"\x1f__Host-session",
        b"\r__Host-session",
        b"\n__Host-session",
        b"\x00__Host-session",
        b"__Host-session\x00",
        "\ufeff__Host-session".encode(),
        "\u3000__Host-session".encode(),
        b"__host-session",
        b"__HOST-SESSION",
        b"%5F%5FHost-session",
        b"__Host%2Dsession",
        b"__%48ost-session",
        b"$__Host-session",
        b'"__Host-session"',
        b"=__Host-session",
        b" = __Host-session",
        "__Host-\u017fession".encode(),
        b"a,__Host-session",
        b"a __Host-session",
    ],
)
def test_a_prefixed_name_is_not_forged_by_one_that_a_browser_lets_anybody_set(forged: bytes) -> None:
    header = forged + b"=" + GOOD.encode()
    handler = CookieHandler().bind(origin_is_https=True)
    assert handler.name == "__Host-session"
    assert cookie_values([header], b"__Host-session") == []
    assert handler.read(Request([header])) == []


def test_a_leading_space_gives_the_name_that_the_browser_checked() -> None:
    # A browser trims it before it looks at the prefix: it cannot be used to slip past that check.
    assert cookie_values([b"a=1;  \t__Host-session=1"], b"__Host-session") == [b"1"]


def test_cve_2016_7401_only_a_semicolon_ends_a_cookie() -> None:
    for separator in (b"]", b"[", b",", b" ", b"}", b")", b"\\", b"\t", b'"', b"\xa0", b"\n", b"&"):
        assert cookie_values([b"utma=x" + separator + GOOD_PAIR], b"session") == []


def test_cve_2023_23934_a_nameless_cookie_is_not_read_as_its_value() -> None:
    for header in (
        b"=__Host-session=bad",
        b"==__Host-session=bad",
        b" =__Host-session=bad",
        b"\t=\t__Host-session=bad",
    ):
        assert cookie_values([header], b"__Host-session") == []


def test_cve_2020_8184_an_escaped_name_is_another_name() -> None:
    assert cookie_values([b"%73ession=bad; __%48ost-session=bad"], b"session") == []
    assert cookie_values([b"%5f%5fHost-session=bad; " + b"__Host-session=1"], b"__Host-session") == [b"1"]


def test_a_semicolon_within_quotes_ends_the_cookie_as_it_does_in_the_browser() -> None:
    assert cookie_values([b'a="x; session=1; y"'], b"session") == [b"1"]


junk = st.binary(max_size=60).map(lambda raw: raw.replace(b";", b""))
named = st.sampled_from([b"session", b" session", b"session\t", b"Session", b"\xa0session", b"sessions", b"", b"="])
pairs = st.lists(st.one_of(junk, st.builds(lambda name, value: name + b"=" + value, named, junk)), max_size=12)


@given(pairs, pairs)
def test_the_good_cookie_is_found_amid_any_junk(before: list[bytes], after: list[bytes]) -> None:
    def expected(pairs: list[bytes]) -> list[bytes]:
        return cookie_values(pairs, b"session")

    whole = cookie_values([b";".join([*before, GOOD_PAIR, *after])], b"session")
    assert whole == [*expected(before), GOOD.encode(), *expected(after)]


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_whatever_comes_is_read_without_an_error(headers: list[bytes]) -> None:
    handler = CookieHandler()
    request = Request(headers)
    assert handler.is_present(request) == bool(cookie_values(headers, b"session"))
    assert all(len(credential) == 64 for credential in handler.read(request))
    assert isinstance(handler.expire_elsewhere(request), list)


# Reading credentials


def test_a_credential_is_read() -> None:
    assert CookieHandler().read(Request([b"a=1; " + GOOD_PAIR])) == [GOOD]
    assert CookieHandler("sId").read(Request([b"sId=" + GOOD.encode()])) == [GOOD]
    assert CookieHandler().read(Request()) == []


@pytest.mark.parametrize(
    "value",
    [
        b"",
        GOOD.encode()[:-1],
        GOOD.encode() + b"A",
        GOOD.encode()[:-1] + b"=",
        GOOD.encode()[:-1] + b"+",
        GOOD.encode()[:-1] + b"/",
        GOOD.encode()[:-1] + b".",
        GOOD.encode()[:-1] + b"\xe9",
        GOOD.encode()[:-1] + b"\x00",
        GOOD.encode()[:-1] + b"\n",
        GOOD.encode() + b"\n",
        b"\n" + GOOD.encode(),
        b'"' + GOOD.encode() + b'"',
        b'"' + GOOD.encode()[:62] + b'"',
        ("\u0663" * 32).encode(),
        ("\uff21" * 64).encode(),
        b"../" + b"a" * 61,
        b"*" * 64,
        b"a" * 4096,
        b"a" * 32 + b" " + b"a" * 31,
        b"%41" * 21 + b"a",
    ],
)
def test_a_malformed_value_reaches_no_store_yet_counts_as_present(value: bytes) -> None:
    request = Request([b"session=" + value])
    assert CookieHandler().read(request) == []
    assert CookieHandler().is_present(request)


def test_malformed_values_take_no_good_ones_place() -> None:
    headers = [b"session=x; " * 50 + GOOD_PAIR]
    assert CookieHandler().read(Request(headers)) == [GOOD]


def test_no_more_than_four_are_returned_and_the_first_ones() -> None:
    sent = [str(number) * 64 for number in range(6)]
    headers = [f"session={credential}".encode() for credential in sent]
    assert CookieHandler().read(Request(headers)) == sent[:4]


def test_the_same_credential_twice_is_one() -> None:
    request = Request([GOOD_PAIR + b"; " + GOOD_PAIR, b"session=" + OTHER.encode()])
    assert CookieHandler().read(request) == [GOOD, OTHER]


def test_is_present_asks_for_the_name_alone() -> None:
    handler = CookieHandler()
    assert handler.is_present(Request([b"session=; a=1"]))
    assert handler.is_present(Request([b"session=1; session=2"]))
    assert not handler.is_present(Request([b"a=session; Session=1; sessions=2; =session=3"]))
    assert not handler.is_present(Request())


# Writing


def test_the_defaults_are_said_explicitly() -> None:
    handler = CookieHandler()
    assert only(handler.write(Request(scheme="http"), GOOD, None)) == (
        f"session={GOOD}; Path=/; HttpOnly; SameSite=Lax"
    )


def test_attributes_come_in_one_order() -> None:
    handler = CookieHandler(
        "sId",
        path="/basedir",
        domain="example.com",
        secure=True,
        same_site="None",
        max_age=timedelta(days=1),
        partitioned=True,
    )
    assert only(handler.write(Request(), GOOD, None)) == (
        f"sId={GOOD}; Domain=example.com; Path=/basedir; Max-Age=86400; Secure; HttpOnly; SameSite=None; Partitioned"
    )


@pytest.mark.parametrize("scheme, secure", [("http", False), ("https", True), ("ws", False), ("wss", True)])
def test_without_an_origin_the_requests_scheme_decides_on_secure(scheme: str, secure: bool) -> None:
    for headers in (
        CookieHandler().write(Request(scheme=scheme), GOOD, None),
        CookieHandler().destroy(Request(scheme=scheme.upper())),
    ):
        assert ("; Secure" in only(headers)) is secure


def test_what_was_set_explicitly_wins_over_the_scheme() -> None:
    assert "Secure" in only(CookieHandler(secure=True).write(Request(scheme="http"), GOOD, None))
    assert "Secure" not in only(CookieHandler(secure=False).write(Request(scheme="https"), GOOD, None))


def test_attributes_that_are_off_are_not_written() -> None:
    written = only(CookieHandler(http_only=False, same_site="STRICT").write(Request(scheme="http"), GOOD, None))
    assert written == f"session={GOOD}; Path=/; SameSite=Strict"


def test_the_lifetime_given_wins_over_the_handlers_own() -> None:
    handler = CookieHandler(max_age=60)
    assert "; Max-Age=60; " in only(handler.write(Request(), GOOD, None))
    assert "; Max-Age=7200; " in only(handler.write(Request(), GOOD, 7200.0))


@pytest.mark.parametrize(
    "lifetime, seconds",
    [(0.001, 1), (1.5, 2), (3600, 3600), (-5, 0), (1e12, 34_560_000), (float("inf"), 34_560_000)],
)
def test_max_age_is_whole_seconds_rounded_up_and_no_longer_than_browsers_keep(lifetime: float, seconds: int) -> None:
    assert f"; Max-Age={seconds}; " in only(CookieHandler().write(Request(), GOOD, lifetime))


def test_destroy_empties_the_cookie_in_the_same_place_with_the_same_attributes() -> None:
    handler = CookieHandler("sId", path="/a", domain="example.com", same_site="none", partitioned=True, max_age=60)
    assert only(handler.destroy(Request())) == (
        "sId=; Domain=example.com; Path=/a; Max-Age=0; Secure; HttpOnly; SameSite=None; Partitioned"
    )


@pytest.mark.parametrize(
    "value",
    [
        "",
        "short",
        GOOD + "A",
        GOOD[:-1] + ";",
        GOOD[:-1] + "é",
        GOOD[:-1] + "\n",
        GOOD[:-2] + "\r\n",
        GOOD[:-1] + "\x00",
    ],
)
def test_no_other_value_is_written_and_the_error_does_not_tell_it(value: str) -> None:
    with pytest.raises(ValueError, match="64 characters of base64url") as caught:
        CookieHandler().write(Request(), value, None)
    assert not value or value not in str(caught.value)


def test_what_is_written_is_read_again_and_gone_when_destroyed() -> None:
    browser, handler = Browser(), CookieHandler(max_age=60)
    browser.receive("shop.example.com", handler.write(Request(), GOOD, None))
    assert handler.read(Request(browser.cookie_header("shop.example.com", "/any"))) == [GOOD]
    browser.receive("shop.example.com", handler.destroy(Request()))
    assert browser.cookie_header("shop.example.com", "/any") == []


def test_another_parser_reads_the_header_as_meant() -> None:
    handler = CookieHandler("sId", path="/a", domain="example.com", secure=True, max_age=60)
    parsed = http.cookies.SimpleCookie(only(handler.write(Request(), GOOD, None)))["sId"]
    assert (parsed.value, parsed["path"], parsed["domain"], parsed["max-age"]) == (GOOD, "/a", "example.com", "60")
    assert parsed["secure"] is True
    assert parsed["httponly"] is True


# The origin


def test_an_https_origin_gives_the_prefix_and_secure() -> None:
    bound = CookieHandler().bind(origin_is_https=True)
    assert bound.name == "__Host-session"
    assert only(bound.write(Request(scheme="http"), GOOD, None)) == (
        f"__Host-session={GOOD}; Path=/; Secure; HttpOnly; SameSite=Lax"
    )


def test_an_http_origin_gives_the_plain_name_and_no_secure() -> None:
    bound = CookieHandler().bind(origin_is_https=False)
    assert bound.name == "session"
    assert "Secure" not in only(bound.write(Request(scheme="https"), GOOD, None))


@pytest.mark.parametrize("place", [{"path": "/basedir"}, {"domain": "example.com"}])
def test_where_the_host_prefix_cannot_be_the_secure_prefix_is_taken(place: dict[str, Any]) -> None:
    assert CookieHandler(**place).bind(origin_is_https=True).name == "__Secure-session"


def test_a_name_given_stays_with_any_origin() -> None:
    assert CookieHandler("sId").bind(origin_is_https=True).name == "sId"
    assert CookieHandler("session").bind(origin_is_https=True).name == "session"
    assert CookieHandler("sId", secure=True).bind(origin_is_https=False).secure is True


def test_binding_keeps_every_attribute_and_leaves_the_handler_as_it_was() -> None:
    handler = CookieHandler(
        "sId",
        path="/a",
        domain="example.com",
        http_only=False,
        same_site="strict",
        max_age=60,
        partitioned=True,
    )
    before = only(handler.write(Request(), GOOD, None))
    assert "; Max-Age=60; " in before
    assert only(handler.bind(origin_is_https=True).write(Request(), GOOD, None)) == before
    plain = CookieHandler()
    plain.bind(origin_is_https=True)
    assert (plain.name, plain.secure) == ("session", None)


def test_binding_keeps_what_an_application_s_own_handler_does_and_has() -> None:
    transport = SignedCookie()
    transport.key = b"another key"
    bound = transport.bind(origin_is_https=True)
    assert isinstance(bound, SignedCookie)
    assert bound.sign(GOOD) == transport.sign(GOOD) != SignedCookie().sign(GOOD)
    assert (bound.name, transport.name) == ("__Host-session", "session")


def test_secure_false_and_an_https_origin_contradict_each_other() -> None:
    with pytest.raises(ConfigurationError, match="secure=False and the origin is https"):
        CookieHandler(secure=False).bind(origin_is_https=True)


def test_secure_false_goes_with_an_http_origin() -> None:
    assert CookieHandler(secure=False).bind(origin_is_https=False).secure is False


@pytest.mark.parametrize("attributes", [{"name": "__Secure-a"}, {"same_site": "none"}, {"partitioned": True}])
def test_secure_stays_open_where_what_implied_it_is_replaced(attributes: dict[str, Any]) -> None:
    assert CookieHandler(**attributes).replace(name="a", same_site="lax", partitioned=False).secure is None


@pytest.mark.parametrize("attributes", [{"name": "__Secure-a"}, {"same_site": "none"}, {"partitioned": True}])
def test_an_http_origin_refuses_what_needs_secure_unless_told_outright(attributes: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="needs Secure and the origin is http"):
        CookieHandler(**attributes).bind(origin_is_https=False)
    assert CookieHandler(**attributes, secure=True).bind(origin_is_https=False).secure is True


# What no browser would keep


@pytest.mark.parametrize(
    "attributes, message",
    [
        ({"name": "__Host-a", "path": "/b"}, 'needs path="/"'),
        ({"name": "__host-a", "path": "/b"}, 'needs path="/"'),
        ({"name": "__Host-a", "domain": "example.com"}, "allows no domain"),
        ({"name": "__HOST-a", "domain": "example.com"}, "allows no domain"),
        ({"name": "__Host-a", "secure": False}, "prefix of its name needs Secure"),
        ({"name": "__Secure-a", "secure": False}, "prefix of its name needs Secure"),
        ({"name": "__sEcUrE-a", "secure": False}, "prefix of its name needs Secure"),
        ({"name": "__Http-a", "secure": False}, "prefix of its name needs Secure"),
        ({"name": "__Http-a", "http_only": False}, "needs http_only=True"),
        ({"name": "__hTTp-a", "http_only": False}, "needs http_only=True"),
        ({"name": "__Host-Http-a", "http_only": False}, "needs http_only=True"),
        ({"name": "__Host-Http-a", "path": "/b"}, 'needs path="/"'),
        ({"name": "__Host-Http-a", "domain": "example.com"}, "allows no domain"),
        ({"same_site": "none", "secure": False}, 'same_site="none" needs Secure'),
        ({"partitioned": True, "secure": False}, "`partitioned` needs Secure"),
    ],
)
def test_attributes_that_cannot_go_together_are_refused_when_made(attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        CookieHandler(**attributes)


@pytest.mark.parametrize(
    "attributes",
    [
        {"name": "__Host-a"},
        {"name": "__Host-Http-a"},
        {"name": "__Http-a", "path": "/b", "domain": "example.com"},
        {"name": "__Secure-a", "path": "/b", "domain": "example.com", "http_only": False},
        {"same_site": "none"},
        {"partitioned": True},
    ],
)
def test_what_cannot_be_without_secure_implies_it(attributes: dict[str, Any]) -> None:
    handler = CookieHandler(**attributes)
    assert handler.secure is True
    assert "; Secure" in only(handler.write(Request(scheme="http"), GOOD, None))


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "a b",
        "a=b",
        "a;b",
        "a,b",
        'a"b',
        "a\\b",
        "a/b",
        "a[]",
        "é",
        "\u2000a",
        "a\r\nb",
        "a\n",
        "\x00",
        "a\t",
        "@",
        7,
    ],
)
def test_a_name_is_a_token(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="RFC 6265 token"):
        CookieHandler(name)


def test_name_and_value_together_stay_within_what_browsers_keep() -> None:
    handler = CookieHandler("a" * (4096 - 64))
    pair = only(handler.write(Request(), GOOD, None)).partition(";")[0]
    assert len(pair) == 4096 + len("=")
    with pytest.raises(ConfigurationError, match="too long"):
        CookieHandler("a" * (4096 - 63))


@pytest.mark.parametrize(
    "path",
    ["", "basedir", "/a;b", "/a\r\nSet-Cookie: b=1", "/a\n", "/a\x00", "/a b", "/é", "/a\x7f", "http://a/", 1, None],
)
def test_a_path_that_a_browser_would_not_take_is_refused(path: Any) -> None:
    with pytest.raises(ConfigurationError, match="path cannot be"):
        CookieHandler(path=path)


def test_a_path_longer_than_browsers_heed_is_refused() -> None:
    assert CookieHandler(path="/" + "a" * 1023).path == "/" + "a" * 1023
    with pytest.raises(ConfigurationError, match="browsers ignore one beyond 1024"):
        CookieHandler(path="/" + "a" * 1024)


@pytest.mark.parametrize(
    "domain",
    [
        "",
        ".",
        "..example.com",
        "example..com",
        "example.com.",
        "example.com:443",
        "https://example.com",
        "example.com/a",
        "*.example.com",
        "a b.com",
        "a;b",
        "a\r\nb",
        "example.com\n",
        "ex\x00ample.com",
        "müller.example",
        "\N{KELVIN SIGN}.example",
        "-a.example",
        "a-.example",
        "a" * 64 + ".example",
        ".".join(["a" * 60] * 5),
        "[::1]",
        443,
    ],
)
def test_a_domain_that_is_no_name_of_hosts_is_refused(domain: Any) -> None:
    with pytest.raises(ConfigurationError, match="domain cannot be"):
        CookieHandler(domain=domain)


def test_a_domain_loses_its_leading_dot_and_its_capitals() -> None:
    assert CookieHandler(domain=".Shop.Example.COM").domain == "shop.example.com"
    assert CookieHandler(domain="xn--mller-kva.example").domain == "xn--mller-kva.example"


@pytest.mark.parametrize(
    "max_age", [0, -1, float("nan"), float("inf"), timedelta(0), timedelta(-1), True, "60", "\r\n"]
)
def test_a_max_age_is_a_positive_duration(max_age: Any) -> None:
    with pytest.raises(ConfigurationError, match="max_age must be"):
        CookieHandler(max_age=max_age)


def test_a_max_age_of_whole_days_is_not_lost() -> None:
    assert CookieHandler(max_age=timedelta(days=2)).max_age == 172_800


@pytest.mark.parametrize("same_site", ["", "laxx", " lax", "lax\r\n", True, False, None])
def test_a_same_site_that_no_standard_names_is_refused(same_site: Any) -> None:
    with pytest.raises(ConfigurationError, match='say "lax", "strict" or "none"'):
        CookieHandler(same_site=same_site)


@pytest.mark.parametrize("option", ["secure", "http_only", "partitioned"])
def test_a_text_or_a_number_is_no_flag(option: str) -> None:
    for value in ("false", 0, 1, "\r\n"):
        attributes: dict[str, Any] = {option: value}
        with pytest.raises(ConfigurationError, match=f"`{option}` is True or False"):
            CookieHandler(**attributes)


@pytest.mark.parametrize(
    "keyword, mend",
    [
        ("maxAge", "spelt `max_age`, in seconds"),
        ("max-age", "it takes name, path"),
        ("httpOnly", "spelt `http_only`"),
        ("httponly", "spelt `http_only`"),
        ("sameSite", "spelt `same_site`"),
        ("samesite", "spelt `same_site`"),
        ("Domain", "spelt `domain`"),
        ("expires", "give `max_age`"),
        ("encode", "needs no encoding"),
        ("decode", "needs no decoding"),
        ("priority", "in no standard"),
        ("key", "spelt `name`"),
        ("colour", "it takes name, path, domain"),
    ],
)
def test_an_unknown_option_is_named_with_its_mend(keyword: str, mend: str) -> None:
    options: dict[str, Any] = {keyword: 1}
    with pytest.raises(ConfigurationError, match=mend) as caught:
        CookieHandler(**options)
    assert repr(keyword) in str(caught.value)


# Rivals of the cookie

HOST, PATH = "shop.example.com", "/account/login"
TOSSED = [
    "Domain=example.com; Path=/",
    "Domain=example.com; Path=/account",
    "Domain=example.com; Path=/account/",
    "Domain=example.com; Path=/account/login",
    "Domain=shop.example.com; Path=/",
    "Domain=shop.example.com; Path=/account/login",
    "Path=/account",
    "Path=/account/login",
]


@pytest.mark.parametrize("place", TOSSED)
def test_a_cookie_tossed_from_any_place_is_gone_and_ours_stays(place: str) -> None:
    browser, handler = Browser(), CookieHandler()
    browser.receive(HOST, [(b"set-cookie", f"session={OTHER}; {place}".encode())])
    browser.receive(HOST, handler.write(Request(), GOOD, None))
    request = Request(browser.cookie_header(HOST, PATH), host=HOST, path=PATH)
    assert sorted(handler.read(request)) == sorted([OTHER, GOOD])
    browser.receive(HOST, [*handler.expire_elsewhere(request), *handler.write(request, GOOD, None)])
    assert handler.read(Request(browser.cookie_header(HOST, PATH))) == [GOOD]


@pytest.mark.parametrize(
    "place", [{}, {"path": "/account"}, {"domain": "example.com"}, {"domain": "shop.example.com", "path": "/account/"}]
)
def test_the_place_of_our_own_cookie_is_never_expired(place: dict[str, Any]) -> None:
    browser, handler = Browser(), CookieHandler(**place)
    browser.receive(HOST, handler.write(Request(), GOOD, None))
    rivals = handler.expire_elsewhere(Request([GOOD_PAIR, b"session=x"], host=HOST, path=PATH))
    assert rivals
    browser.receive(HOST, rivals)
    assert handler.read(Request(browser.cookie_header(HOST, PATH))) == [GOOD]


def test_a_host_cookie_from_before_the_domain_was_configured_is_expired() -> None:
    browser, handler = Browser(), CookieHandler(domain="example.com")
    browser.receive(HOST, CookieHandler().write(Request(), OTHER, None))
    browser.receive(HOST, handler.write(Request(), GOOD, None))
    request = Request(browser.cookie_header(HOST, PATH), host=HOST, path=PATH)
    browser.receive(HOST, handler.expire_elsewhere(request))
    assert handler.read(Request(browser.cookie_header(HOST, PATH))) == [GOOD]


def test_nothing_is_expired_elsewhere_for_a_single_cookie_or_none() -> None:
    for headers in ([], [GOOD_PAIR], [GOOD_PAIR + b"; a=1"]):
        assert CookieHandler().expire_elsewhere(Request(headers, host=HOST, path=PATH)) == []


@pytest.mark.parametrize("second", [GOOD_PAIR, b"session=junk", b"session="])
def test_a_rival_counts_whatever_its_value(second: bytes) -> None:
    assert CookieHandler().expire_elsewhere(Request([GOOD_PAIR, second], host=HOST, path=PATH))


def test_a_host_locked_cookie_has_no_rivals() -> None:
    pair = b"__Host-session=" + GOOD.encode()
    assert (
        CookieHandler().bind(origin_is_https=True).expire_elsewhere(Request([pair, pair], host=HOST, path=PATH)) == []
    )


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8000",
        "127.0.0.1",
        "127.0.0.1:8000",
        "[::1]:8000",
        "::1",
        "0x7f.1",
        "",
        None,
        "a..b",
        ".com",
        "ex ample.com",
        "a;b.com",
        "a\r\nb.com",
        "é.com",
        "example.com.",
        "-a.com",
        "a" * 300 + ".com",
        "a.com:x",
        "\x00",
    ],
)
def test_an_address_a_single_label_and_a_broken_host_have_no_parents(host: str | None) -> None:
    rivals = CookieHandler().expire_elsewhere(Request([GOOD_PAIR, GOOD_PAIR], host=host, path="/a"))
    assert [b"Domain" in value for _, value in rivals] == [False]


def test_no_top_level_domain_is_named() -> None:
    request = Request([GOOD_PAIR, GOOD_PAIR], host="WWW.Shop.Example.com:443")
    named = [value.decode().split("; ")[1] for _, value in CookieHandler().expire_elsewhere(request)]
    assert named == ["Domain=www.shop.example.com", "Domain=shop.example.com", "Domain=example.com"]


@pytest.mark.parametrize("path", ["/a;b", "/a\r\nSet-Cookie: x=1", "/a b", "/é", "", "relative", "*", "/a\x00"])
def test_a_path_that_no_header_may_hold_is_left_out(path: str) -> None:
    rivals = CookieHandler(path="/ours").expire_elsewhere(Request([GOOD_PAIR, GOOD_PAIR], host=None, path=path))
    assert [value.split(b"; ")[1] for _, value in rivals] == [b"Path=/"]
    below = Request([GOOD_PAIR, GOOD_PAIR], host=None, path="/x/" + path)
    assert [value.split(b"; ")[1] for _, value in CookieHandler().expire_elsewhere(below)][:2] == [
        b"Path=/x",
        b"Path=/x/",
    ]


@given(
    st.one_of(st.none(), st.text(max_size=300), st.from_regex(r"([a-z]{1,20}\.){1,30}com", fullmatch=True)),
    st.one_of(st.text(max_size=300), st.from_regex(r"(/[a-z]{0,40}){1,60}", fullmatch=True)),
)
def test_what_is_expired_elsewhere_is_bounded_and_one_header_each(host: str | None, path: str) -> None:
    rivals = CookieHandler().expire_elsewhere(Request([GOOD_PAIR, GOOD_PAIR], host=host, path=path))
    assert len({value for _, value in rivals}) == len(rivals)
    assert sum(len(name) + len(value) for name, value in rivals) <= 2048
    for _, value in rivals:
        assert all(0x20 <= byte < 0x7F for byte in value)
        assert [part.partition(b"=")[0] for part in value.split(b"; ") if not part.startswith(b"Domain")] == [
            b"session",
            b"Path",
            b"Max-Age",
            b"Secure",
            b"HttpOnly",
            b"SameSite",
        ]


def test_a_long_path_and_a_deep_host_each_have_a_bound_of_their_own() -> None:
    def places(host: str | None, path: str) -> list[bytes]:
        rivals = CookieHandler().expire_elsewhere(Request([GOOD_PAIR, GOOD_PAIR], host=host, path=path))
        assert sum(len(name) + len(value) for name, value in rivals) <= 2048
        return [value.split(b"; ")[1] for _, value in rivals]

    seven = [b"/a", b"/a/", b"/a/a", b"/a/a/", b"/a/a/a", b"/a/a/a/", b"/a/a/a/a"]
    assert places(None, "/a" * 20) == [b"Path=" + path for path in seven]
    assert len(places(".".join("abcdefghijkl"), "/")) == 8
    assert places(None, "/" + "a" * 1024) == []
    assert places("a." * 125 + "com", "/")[0].startswith(b"Domain=a.a.")
    assert places("a." * 126 + "com", "/") == []
    assert len(places("a.b.c.d.e.f.g.example.com", "/a/b/c/d/e/f/g")) > 8


# What a user brings instead


class HeaderTransport(CookieTransport):
    def read(self, request: RequestFacts) -> list[str]:
        return [value.decode("latin-1") for value in request.header_values(b"x-session")]

    def write(self, request: RequestFacts, value: str, lifetime: float | None) -> list[Header]:
        return [(b"x-session", value.encode("ascii"))]

    def destroy(self, request: RequestFacts) -> list[Header]:
        return [(b"x-session", b"")]


class SignedCookie(CookieHandler):
    key = b"a key of the application's"

    def sign(self, value: str) -> str:
        return hmac.new(self.key, value.encode("ascii"), hashlib.sha256).hexdigest()

    def read(self, request: RequestFacts) -> list[str]:
        good = []
        for raw in cookie_values(request.cookie_headers, self.name.encode("ascii")):
            value, _, signature = raw.decode("latin-1").partition(".")
            if value.isascii() and hmac.compare_digest(self.sign(value).encode(), signature.encode()):
                good.append(value)
        return good

    def write(self, request: RequestFacts, value: str, lifetime: float | None) -> list[Header]:
        ((name, header),) = super().write(request, value, lifetime)
        return [(name, header.replace(value.encode(), f"{value}.{self.sign(value)}".encode(), 1))]


def test_a_transport_needs_three_methods_and_inherits_the_rest() -> None:
    transport: CookieTransport = HeaderTransport()
    request = Request(headers={b"x-session": [GOOD.encode()]})
    assert transport.read(request) == [GOOD]
    assert transport.is_present(request)
    assert not transport.is_present(Request())
    assert transport.expire_elsewhere(request) == []
    assert transport.bind(origin_is_https=True) is transport


def test_a_transport_without_the_three_cannot_be_made() -> None:
    class Half(CookieTransport):
        def read(self, request: RequestFacts) -> list[str]:
            return []

    with pytest.raises(TypeError, match="abstract"):
        Half()  # type: ignore[abstract]


def test_a_signed_cookie_can_be_brought() -> None:
    browser, transport = Browser(), SignedCookie()
    browser.receive(HOST, transport.write(Request(), GOOD, None))
    sent = browser.cookie_header(HOST, "/")
    assert transport.read(Request(sent)) == [GOOD]
    assert transport.read(Request([sent[0].replace(GOOD.encode(), OTHER.encode())])) == []
