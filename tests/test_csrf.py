r"""The check of requests, as a table whose verdicts are written by hand, then as what must hold of every request.

A row is a request, "->" and its verdict. Words with a capital are headers, one for each line that comes (a "␣" is a
blank, a "…" 8,000 letters, \udcXX the raw byte XX); `GET>POST` is a GET on the wire that the endpoint sees as a POST;
`Host` is shop.example unless it is given, and "-" is none. `own` are the configured origins, `trust` and `mode`
the policy, `but` what the endpoint asks; `socket` is the opening of a WebSocket, `upgrade` a request that says it is
one, `token` what is known of the token (missing unless it is given).
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from server_session._tokens import TokenState
from server_session.csrf.policy import CSRF
from server_session.csrf.verdict import Protection, Rejection, check, check_token, is_cross_site
from server_session.exceptions import ConfigurationError

CODES = {
    "csrf_header",
    "csrf_origin",
    "csrf_site",
    "csrf_token_missing",
    "csrf_token_invalid",
    "csrf_token_used",
    "csrf_stale",
}
HEADERS = {"Origin", "Site", "Mode", "Dest", "Referer", "Host", "Authorization"}


class Row(NamedTuple):
    step: str
    request: str
    verdict: str

    def __str__(self) -> str:
        return f"{self.step}: {self.request}"


class Facts(NamedTuple):
    """What a request says of itself, read as the check reads a request."""

    method: str
    seen_method: str
    origin: Sequence[bytes] = ()
    site: Sequence[bytes] = ()
    fetch_mode: Sequence[bytes] = ()
    fetch_dest: Sequence[bytes] = ()
    referer: Sequence[bytes] = ()
    host: str | None = None
    scheme: str = "http"
    authorization: Sequence[bytes] = ()
    has_cookie: bool = False
    is_websocket: bool = False
    is_http: bool = True

    @property
    def wire_method(self) -> str:
        return self.method

    def header_values(self, name: bytes) -> Sequence[bytes]:
        return {
            b"origin": self.origin,
            b"sec-fetch-site": self.site,
            b"sec-fetch-mode": self.fetch_mode,
            b"sec-fetch-dest": self.fetch_dest,
            b"referer": self.referer,
            b"authorization": self.authorization,
        }[name]


class Case(NamedTuple):
    facts: Facts
    policy: CSRF
    own: tuple[str, ...]
    asked: Protection
    token: TokenState | None
    """What is known of the token; `None` where it was not looked for yet."""

    def check(self) -> Rejection | None:
        facts: Any = self.facts
        rejection = check(facts, facts.seen_method, self.policy, self.own, self.asked, has_cookie=facts.has_cookie)
        if rejection is None or not rejection.needs_token or self.token is None:
            return rejection
        return check_token(rejection, self.token, self.policy)


def rows(step: str, common: str, text: str) -> Iterator[Row]:
    for line in text.strip().split("\n"):
        request, arrow, verdict = line.strip(" ").rpartition("->")
        assert arrow, line
        method, *words = [word for word in request.split(" ") if word]
        yield Row(step, " ".join([method, *common.split(), *words]), verdict.strip(" "))


def case_of(request: str) -> Case:
    methods, *words = request.split(" ")
    method, _, seen_method = methods.replace("␣", " ").partition(">")
    headers: dict[str, list[bytes]] = defaultdict(list)
    said: dict[str, str] = {}
    for word in words:
        name, _, value = word.partition("=")
        value = value.replace("␣", " ").replace("…", "a" * 8000)
        if name in HEADERS:
            headers[name].append(value.encode("utf-8", "surrogateescape"))
        else:
            said[name] = value
    assert said.keys() <= {*("own", "trust", "mode", "but", "token", "cookie", "socket", "upgrade", "tls")}, request
    (host,) = headers["Host"] or [b"shop.example"]
    facts = Facts(
        method=method,
        seen_method=seen_method or method,
        origin=headers["Origin"],
        site=headers["Site"],
        fetch_mode=headers["Mode"],
        fetch_dest=headers["Dest"],
        referer=headers["Referer"],
        host=None if host == b"-" else host.decode("latin-1"),
        scheme=("ws" if "socket" in said else "http") + ("s" if "tls" in said else ""),
        authorization=headers["Authorization"],
        has_cookie="cookie" in said,
        is_websocket="socket" in said or "upgrade" in said,
        is_http="socket" not in said,
    )
    policy: dict[str, Any] = {"mode": said.get("mode")}
    if "trust" in said:
        policy["trusted_origins"] = said["trust"].split(",")
    return Case(
        facts,
        CSRF(**policy),
        tuple(said["own"].split(",")) if "own" in said else (),
        Protection(**dict.fromkeys(said["but"].split(","), True)) if "but" in said else Protection(),
        None if said.get("token") == "unread" else TokenState(said.get("token", "missing")),
    )


EXEMPT = rows(
    "1. exempt",
    "but=exempt cookie own=https://shop.example",
    """
    POST                                                           -> pass
    DELETE Origin=https://evil.test Site=cross-site                -> pass
    POST   Origin=https://evil.test                                -> pass
    POST   Origin=null Authorization=Basic␣eDp5                    -> pass
    POST   Origin=https://evil.test Origin=https://shop.example    -> pass
    POST   Site=same-origin Mode=navigate Dest=empty               -> pass
    POST   mode=strict token=invalid                               -> pass
    HEAD   Site=cross-site                                         -> pass
    GET    socket Origin=https://evil.test                         -> pass
    POST   but=exempt,strict,every_method,anonymous,scoped         -> pass
    """,
)

METHODS = [
    *rows(
        "2. method, of a request that is foreign",
        "cookie token=valid own=https://shop.example Origin=https://evil.test Site=cross-site",
        """
        GET                                               -> pass
        OPTIONS                                           -> pass
        GET>OPTIONS                                       -> pass
        GET           mode=strict                         -> pass
        GET           but=strict                          -> pass
        GET           but=anonymous                       -> pass
        GET           but=scoped                          -> pass
        POST                                              -> csrf_site
        post                                              -> csrf_site
        Post                                              -> csrf_site
        get                                               -> csrf_site
        Get                                               -> csrf_site
        options                                           -> csrf_site
        head                                              -> csrf_site
        PUT                                               -> csrf_site
        PATCH                                             -> csrf_site
        DELETE                                            -> csrf_site
        PURGE                                             -> csrf_site
        QUERY                                             -> csrf_site
        TRACE                                             -> csrf_site
        CONNECT                                           -> csrf_site
        PROPFIND                                          -> csrf_site
        GETS                                              -> csrf_site
        GET␣                                              -> csrf_site
        GET>POST                                          -> csrf_site
        GET>post                                          -> csrf_site
        GET>DELETE                                        -> csrf_site
        GET>get                                           -> csrf_site
        OPTIONS>PUT                                       -> csrf_site
        POST>GET                                          -> csrf_site
        POST>HEAD                                         -> csrf_site
        DELETE>OPTIONS                                    -> csrf_site
        get>GET                                           -> csrf_site
        GET           but=every_method                    -> csrf_site
        OPTIONS       but=every_method                    -> csrf_site
        """,
    ),
    *rows(
        "2. method, of a request that is undecided",
        "cookie own=https://shop.example",
        """
        GET                                               -> pass
        OPTIONS                                           -> pass
        GET           Origin=null                         -> pass
        GET           Origin=https://shop.example/        -> pass
        OPTIONS       Origin=                             -> pass
        GET           Site=cross-site Site=cross-site     -> pass
        GET           Authorization=Basic␣eDp5            -> pass
        POST                                              -> csrf_token_missing
        post                                              -> csrf_token_missing
        PURGE                                             -> csrf_token_missing
        QUERY                                             -> csrf_token_missing
        GET>POST                                          -> csrf_token_missing
        POST>GET                                          -> csrf_token_missing
        GET           but=every_method                    -> csrf_token_missing
        OPTIONS       but=every_method                    -> csrf_token_missing
        post          token=valid                         -> pass
        PURGE         token=valid                         -> pass
        GET>POST      token=valid                         -> pass
        POST>GET      token=valid                         -> pass
        GET           but=every_method token=valid        -> pass
        """,
    ),
]

HEAD = [
    *rows(
        "2. HEAD, of which no more is asked than that nothing convicts it",
        "cookie own=https://shop.example trust=https://pay.example",
        """
        HEAD                                                                 -> pass
        HEAD       Origin=https://shop.example Site=same-origin              -> pass
        HEAD       Site=none                                                 -> pass
        HEAD       Site=none Origin=https://evil.test                        -> csrf_origin
        HEAD       Origin=null                                               -> pass
        HEAD       Origin=null Site=same-origin                              -> pass
        HEAD       Site=same-origin Mode=navigate Dest=empty                 -> pass
        HEAD       Referer=https://pay.example/                              -> pass
        HEAD       Authorization=Basic␣eDp5                                  -> pass
        HEAD       Origin=https://pay.example Site=cross-site                -> pass
        HEAD       token=invalid                                             -> pass
        HEAD       mode=strict                                               -> pass
        HEAD       but=strict                                                -> pass
        HEAD       but=anonymous                                             -> pass
        HEAD>GET                                                             -> pass
        GET>HEAD                                                             -> pass
        HEAD       Site=cross-site                                           -> csrf_site
        HEAD       Site=same-site                                            -> csrf_site
        HEAD       Site=cross-site token=valid                               -> csrf_site
        HEAD       Site=cross-site mode=strict token=valid                   -> csrf_site
        HEAD>GET   Site=cross-site                                           -> csrf_site
        GET>HEAD   Site=cross-site                                           -> csrf_site
        HEAD       Site=same-origin Origin=https://evil.test                 -> csrf_origin
        HEAD       Origin=https://evil.test                                  -> csrf_origin
        HEAD       Referer=https://evil.test/                                -> csrf_origin
        HEAD       Origin=https://shop.example Origin=https://shop.example   -> csrf_header
        HEAD       Origin=https://shop.example/cart                          -> csrf_header
        HEAD       Site=same-origin Site=same-origin                         -> csrf_header
        HEAD       but=every_method                                          -> csrf_token_missing
        HEAD       but=every_method token=valid                              -> pass
        HEAD>POST                                                            -> csrf_token_missing
        POST>HEAD                                                            -> csrf_token_missing
        """,
    ),
    *rows(
        "2. HEAD without a cookie",
        "own=https://shop.example",
        """
        HEAD                                    -> pass
        HEAD       Site=cross-site              -> csrf_site
        HEAD       Origin=https://evil.test     -> csrf_origin
        """,
    ),
]

HEADER = [
    *rows(
        "3. Origin or Sec-Fetch-Site that is more than one",
        "cookie token=valid own=https://shop.example trust=https://pay.example",
        """
        POST Origin=https://shop.example Origin=https://evil.test               -> csrf_header
        POST Origin=https://evil.test Origin=https://shop.example               -> csrf_header
        POST Origin=https://shop.example Origin=https://shop.example            -> csrf_header
        POST Origin=https://pay.example Origin=https://pay.example              -> csrf_header
        POST Origin=null Origin=null                                            -> csrf_header
        POST Origin= Origin=https://shop.example                                -> csrf_header
        POST Origin=https://shop.example,https://evil.test                      -> csrf_header
        POST Origin=https://shop.example,␣https://shop.example                  -> csrf_header
        POST Origin=https://pay.example,                                        -> csrf_header
        POST Origin=,https://shop.example                                       -> csrf_header
        POST Origin=null,null                                                   -> csrf_header
        POST Origin=,                                                           -> csrf_header
        POST Origin=https://shop.example Site=same-origin Site=cross-site       -> csrf_header
        POST Origin=https://shop.example Site=cross-site Site=same-origin       -> csrf_header
        POST Origin=https://shop.example Site=same-origin Site=same-origin      -> csrf_header
        POST Origin=https://shop.example Site=same-origin,same-origin           -> csrf_header
        POST Origin=https://shop.example Site=same-origin,␣cross-site           -> csrf_header
        POST Origin=https://shop.example Site=same-origin,                      -> csrf_header
        POST Origin=https://shop.example Site= Site=same-origin                 -> csrf_header
        POST Origin=https://pay.example Site=cross-site Site=cross-site         -> csrf_header
        POST Site=none,none                                                     -> csrf_header
        POST Origin=https://evil.test Origin=https://evil.test Site=cross-site  -> csrf_header
        POST Origin=https://shop.example Origin=https://shop.example mode=strict -> csrf_header
        """,
    ),
    *rows(
        "3. Origin that is none",
        "cookie token=valid own=https://shop.example",
        """
        POST Origin=https://shop.example@evil.test                   -> csrf_header
        POST Origin=https://user@shop.example                        -> csrf_header
        POST Origin=https://user:word@shop.example                   -> csrf_header
        POST Origin=https://@shop.example                            -> csrf_header
        POST Origin=https://shop.example/                            -> csrf_header
        POST Origin=https://shop.example/cart                        -> csrf_header
        POST Origin=https://shop.example?q                           -> csrf_header
        POST Origin=https://shop.example#f                           -> csrf_header
        POST Origin=https://shop.example\\@evil.test                  -> csrf_header
        POST Origin=https://shop.example\\                           -> csrf_header
        POST Origin=https://sh\xf6p.example                          -> csrf_header
        POST Origin=https://sh\udcf6p.example                        -> csrf_header
        POST Origin=https://\uff53hop.example                        -> csrf_header
        POST Origin=https://shop.example\udcff                       -> csrf_header
        POST Origin=https://shop.example\u3002                       -> csrf_header
        POST Origin=https://shop.example\x00                         -> csrf_header
        POST Origin=https://shop.example%2eevil.test                 -> csrf_header
        POST Origin=                                                 -> csrf_header
        POST Origin=␣                                                -> csrf_header
        POST Origin=*                                                -> csrf_header
        POST Origin=NULL                                             -> csrf_header
        POST Origin=nulll                                            -> csrf_header
        POST Origin=shop.example                                     -> csrf_header
        POST Origin=//shop.example                                   -> csrf_header
        POST Origin=https:shop.example                               -> csrf_header
        POST Origin=https:/shop.example                              -> csrf_header
        POST Origin=https://                                         -> csrf_header
        POST Origin=://shop.example                                  -> csrf_header
        POST Origin=https://shop.example:                            -> csrf_header
        POST Origin=https://shop.example:https                       -> csrf_header
        POST Origin=https://shop.example:0                           -> csrf_header
        POST Origin=https://shop.example:-443                        -> csrf_header
        POST Origin=https://shop.example:65536                       -> csrf_header
        POST Origin=https://shop.example:443:443                     -> csrf_header
        POST Origin=https://[::1                                     -> csrf_header
        POST Origin=https://::1                                      -> csrf_header
        POST Origin=https://[::1]evil.test                           -> csrf_header
        POST Origin=https://[fe80::1%25eth0]                         -> csrf_header
        POST Origin=https://shop.example␣https://shop.example        -> csrf_header
        POST Origin=https://shop.example/ Site=same-origin           -> csrf_header
        POST Origin=https://shop.example/ Site=cross-site            -> csrf_header
        POST Origin=https://shop.example/ Site=none                  -> csrf_header
        POST Origin=https://shop.example/ trust=https://shop.example -> csrf_header
        POST Origin=␣https://shop.example␣ Site=same-origin          -> pass
        """,
    ),
    *rows(
        "3. without a cookie too",
        "own=https://shop.example",
        """
        POST Origin=https://shop.example Origin=https://shop.example -> csrf_header
        POST Origin=https://shop.example/                            -> csrf_header
        POST Origin=                                                 -> csrf_header
        POST Site=same-origin Site=same-origin                       -> csrf_header
        """,
    ),
]

TRUSTED = [
    *rows(
        "4. trusted origin",
        "cookie own=https://shop.example trust=https://pay.example",
        """
        POST Origin=https://pay.example Site=cross-site                              -> pass
        POST Origin=https://pay.example Site=same-site                               -> pass
        POST Origin=https://pay.example Site=same-origin                             -> pass
        POST Origin=https://pay.example Site=none                                    -> pass
        POST Origin=https://pay.example                                              -> pass
        POST Origin=https://pay.example Site=cross-site token=invalid                -> pass
        POST Origin=https://pay.example Site=cross-site Referer=https://evil.test/   -> pass
        POST Origin=https://pay.example Site=cross-site Mode=navigate Dest=empty     -> pass
        POST Origin=https://pay.example Site=cross-site Authorization=Basic␣eDp5     -> pass
        POST Origin=https://pay.example Site=cross-site but=anonymous                -> pass
        POST Origin=https://pay.example Site=cross-site Host=-                       -> pass
        post Origin=https://pay.example Site=cross-site                              -> pass
        POST Origin=HTTPS://Pay.Example Site=cross-site                              -> pass
        POST Origin=https://pay.example:443 Site=cross-site                          -> pass
        POST Origin=https://pay.example Site=cross-site mode=strict                  -> csrf_token_missing
        POST Origin=https://pay.example Site=cross-site mode=strict token=stale      -> csrf_stale
        POST Origin=https://pay.example Site=cross-site mode=strict token=valid      -> pass
        POST Origin=https://pay.example Site=cross-site but=strict                   -> csrf_token_missing
        POST Origin=https://pay.example Site=cross-site but=scoped                   -> csrf_token_missing
        POST Origin=https://pay.example:444 Site=cross-site                          -> csrf_site
        POST Origin=http://pay.example Site=cross-site                               -> csrf_site
        POST Origin=https://www.pay.example Site=cross-site                          -> csrf_site
        POST Origin=https://pay.example:80                                           -> csrf_origin
        POST Origin=http://pay.example:443                                           -> csrf_origin
        POST Origin=http://pay.example                                               -> csrf_origin
        POST Origin=https://pay.example.                                             -> csrf_origin
        POST Origin=https://pay.example.evil.test                                    -> csrf_origin
        POST Origin=https://evilpay.example                                          -> csrf_origin
        POST Origin=https://www.pay.example                                          -> csrf_origin
        POST Origin=https://pay.example@evil.test                                    -> csrf_header
        POST Referer=https://pay.example/ Site=cross-site                            -> csrf_site
        POST Referer=https://pay.example/ Origin=null Site=cross-site                -> csrf_site
        POST Referer=https://pay.example/                                            -> csrf_token_missing
        """,
    ),
    *rows(
        "4. trusted origin, as it is written",
        "cookie own=https://shop.example Site=cross-site",
        """
        POST trust=https://pay.example:443 Origin=https://pay.example                    -> pass
        POST trust=http://pay.example:80 Origin=http://pay.example                       -> pass
        POST trust=https://pay.example:8443 Origin=https://pay.example:8443              -> pass
        POST trust=https://pay.example:8443 Origin=https://pay.example                   -> csrf_site
        POST trust=https://pay.example:80 Origin=https://pay.example                     -> csrf_site
        POST trust=https://a.example,https://b.example Origin=https://b.example          -> pass
        POST trust=https://a.example,https://b.example Origin=https://c.example          -> csrf_site
        POST trust=https://[2001:db8::1]:8443 Origin=https://[2001:DB8::1]:8443          -> pass
        POST trust=https://[2001:db8::1] Origin=https://[2001:db8::2]                    -> csrf_site
        POST trust=https://xn--bcher-kva.example Origin=https://xn--bcher-kva.example    -> pass
        POST trust=https://xn--bcher-kva.example Origin=https://b\xfccher.example        -> csrf_header
        POST trust=capacitor://localhost Origin=capacitor://localhost                    -> pass
        POST trust=capacitor://localhost Origin=https://localhost                        -> csrf_site
        POST trust=https://shop.example Origin=https://shop.example                      -> pass
        """,
    ),
    *rows(
        "4. trusted origin, without a cookie",
        "trust=https://pay.example Origin=https://pay.example Site=cross-site",
        """
        POST                                      -> pass
        POST but=anonymous                        -> pass
        POST Authorization=Basic␣eDp5             -> pass
        POST mode=strict                          -> csrf_token_missing
        """,
    ),
]

SITE = [
    *rows(
        "5. cross-site or same-site, a valid token notwithstanding",
        "cookie token=valid own=https://shop.example,https://www.shop.example",
        """
        POST Site=cross-site                                             -> csrf_site
        POST Site=same-site                                              -> csrf_site
        POST Site=cross-site Origin=https://evil.test                    -> csrf_site
        POST Site=same-site Origin=https://blog.shop.example             -> csrf_site
        POST Site=cross-site Origin=null                                 -> csrf_site
        POST Site=same-site Origin=null                                  -> csrf_site
        POST Site=cross-site Origin=https://shop.example                 -> csrf_site
        POST Site=same-site Origin=https://shop.example                  -> csrf_site
        POST Site=same-site Origin=https://www.shop.example              -> csrf_site
        POST Site=cross-site Referer=https://shop.example/               -> csrf_site
        POST Site=␣cross-site␣                                           -> csrf_site
        POST Site=\tcross-site\t                                         -> csrf_site
        POST Site=cross-site Mode=navigate Dest=document                 -> csrf_site
        POST Site=cross-site Mode=no-cors Dest=empty                     -> csrf_site
        POST Site=cross-site mode=strict                                 -> csrf_site
        POST Site=same-site mode=strict                                  -> csrf_site
        POST Site=cross-site but=strict                                  -> csrf_site
        POST Site=cross-site but=scoped                                  -> csrf_site
        POST Site=cross-site token=missing                               -> csrf_site
        POST Site=cross-site token=unread                                -> csrf_site
        """,
    ),
    *rows(
        "5. without a cookie too",
        "",
        """
        POST Site=cross-site                                             -> csrf_site
        POST Site=same-site                                              -> csrf_site
        POST Site=cross-site Origin=https://shop.example                 -> csrf_site
        POST Site=cross-site Authorization=Bearer␣x                      -> csrf_site
        POST Site=same-site but=anonymous                                -> csrf_site
        """,
    ),
]

SAME_ORIGIN = [
    *rows(
        "6. same-origin, with configured origins",
        "cookie Site=same-origin own=https://shop.example,https://www.shop.example",
        """
        POST Origin=https://shop.example                                          -> pass
        POST Origin=https://www.shop.example                                      -> pass
        POST Origin=https://shop.example Mode=cors Dest=empty                     -> pass
        POST Origin=https://shop.example Mode=no-cors Dest=empty                  -> pass
        POST Origin=https://shop.example Mode=navigate Dest=document              -> pass
        POST Origin=https://shop.example Mode=navigate Dest=iframe                -> pass
        POST Origin=https://shop.example Mode=navigate                            -> csrf_token_missing
        POST Origin=https://shop.example Dest=empty                               -> pass
        POST Origin=https://shop.example Referer=https://evil.test/               -> pass
        POST Origin=https://shop.example token=invalid                            -> pass
        POST Origin=https://shop.example Host=127.0.0.1:8000                      -> pass
        POST Origin=https://shop.example Host=evil.test                           -> pass
        POST Origin=https://shop.example Host=-                                   -> pass
        POST Origin=HTTPS://SHOP.EXAMPLE                                          -> pass
        POST Origin=https://shop.example:443                                      -> pass
        POST                                                                      -> pass
        POST Host=-                                                               -> pass
        POST Referer=https://evil.test/                                           -> pass
        post Origin=https://shop.example                                          -> pass
        POST Origin=https://shop.example Authorization=Basic␣eDp5                 -> pass
        POST Origin=https://shop.example Mode=navigate Dest=empty                 -> csrf_token_missing
        POST Origin=https://shop.example Mode=navigate Dest=empty token=invalid   -> csrf_token_invalid
        POST Origin=https://shop.example Mode=navigate Dest=empty token=valid     -> pass
        POST Origin=https://www.shop.example Mode=navigate Dest=empty             -> csrf_token_missing
        POST Mode=navigate Dest=empty                                             -> csrf_token_missing
        POST Origin=https://shop.example Mode=␣navigate Dest=empty␣               -> csrf_token_missing
        POST Origin=https://shop.example Mode=cors Mode=navigate Dest=empty       -> csrf_token_missing
        POST Origin=https://shop.example Mode=cors,navigate Dest=empty            -> csrf_token_missing
        POST Origin=https://shop.example Mode=navigate Dest=document Dest=empty   -> csrf_token_missing
        POST Origin=https://shop.example Mode=same-origin Dest=empty              -> csrf_token_missing
        POST Origin=https://shop.example Mode=same-origin Dest=document           -> csrf_token_missing
        POST Origin=https://shop.example Mode=same-origin                         -> csrf_token_missing
        POST Origin=https://shop.example Mode=same-origin token=valid             -> pass
        POST Origin=null                                                          -> csrf_token_missing
        POST Origin=null token=valid                                              -> pass
        POST Origin=null Mode=navigate Dest=document                              -> csrf_token_missing
        POST Origin=null Mode=navigate Dest=empty                                 -> csrf_token_missing
        POST Origin=https://evil.test                                             -> csrf_origin
        POST Origin=https://evil.test token=valid                                 -> csrf_origin
        POST Origin=https://evil.test Mode=navigate Dest=empty token=valid        -> csrf_origin
        POST Origin=https://evil.test Host=evil.test                              -> csrf_origin
        POST Origin=http://shop.example                                           -> csrf_origin
        POST Origin=https://shop.example:444                                      -> csrf_origin
        POST Origin=https://shop.example:80                                       -> csrf_origin
        POST Origin=https://shop.example.                                         -> csrf_origin
        POST Origin=https://shop.example.evil.test                                -> csrf_origin
        POST Origin=https://evilshop.example                                      -> csrf_origin
        POST Origin=https://blog.shop.example                                     -> csrf_origin
        """,
    ),
    *rows(
        "6. same-origin, with Host alone",
        "cookie Site=same-origin",
        """
        POST                                                                      -> pass
        POST Host=-                                                               -> pass
        POST Origin=https://shop.example                                          -> pass
        POST Origin=https://SHOP.example                                          -> pass
        POST Origin=https://shop.example Host=Shop.EXAMPLE                        -> pass
        POST Origin=https://shop.example Host=shop.example:443                    -> pass
        POST Origin=https://shop.example:443                                      -> pass
        POST Origin=http://shop.example Host=shop.example:80                      -> pass
        POST Origin=https://shop.example:8443 Host=shop.example:8443              -> pass
        POST Origin=http://[::1]:8000 Host=[::1]:8000                             -> pass
        POST Origin=http://[::1] Host=[::1]:80                                    -> pass
        POST Origin=https://xn--bcher-kva.example Host=xn--bcher-kva.example      -> pass
        POST Origin=https://shop.example. Host=shop.example.                      -> pass
        POST Origin=https://shop.example Mode=cors Dest=empty                     -> pass
        POST Origin=https://shop.example Mode=navigate Dest=empty                 -> csrf_token_missing
        POST Mode=same-origin                                                     -> csrf_token_missing
        POST Origin=https://evil.test                                             -> csrf_token_missing
        POST Origin=https://evil.test token=valid                                 -> pass
        POST Origin=https://shop.example Host=127.0.0.1:8000                      -> csrf_token_missing
        POST Origin=https://shop.example Host=127.0.0.1:8000 token=valid          -> pass
        POST Origin=https://shop.example Host=127.0.0.1:8000 token=used           -> csrf_token_used
        POST Origin=https://shop.example Host=shop.example:80                     -> csrf_token_missing
        POST Origin=http://shop.example Host=shop.example:443                     -> csrf_token_missing
        POST Origin=https://shop.example:8443                                     -> csrf_token_missing
        POST Origin=https://shop.example Host=shop.example.                       -> csrf_token_missing
        POST Origin=https://shop.example Host=-                                   -> csrf_token_missing
        POST Origin=https://shop.example Host=                                    -> csrf_token_missing
        POST Origin=https://shop.example Host=user@shop.example                   -> csrf_token_missing
        POST Origin=https://shop.example Host=sh\xf6p.example                     -> csrf_token_missing
        POST Origin=http://[::1]:8000 Host=[::2]:8000                             -> csrf_token_missing
        POST Origin=null                                                          -> csrf_token_missing
        """,
    ),
    *rows(
        "6. same-origin, without a cookie",
        "Site=same-origin own=https://shop.example",
        """
        POST                                                                      -> pass
        POST Origin=https://shop.example                                          -> pass
        POST Origin=https://shop.example but=anonymous                            -> pass
        POST Origin=https://shop.example Authorization=Basic␣eDp5                 -> pass
        POST Origin=https://shop.example Mode=navigate Dest=empty                 -> csrf_token_missing
        POST Mode=navigate Dest=empty                                             -> csrf_token_missing
        POST Origin=https://shop.example Mode=same-origin                         -> csrf_token_missing
        POST Origin=null                                                          -> csrf_token_missing
        POST Origin=https://evil.test                                             -> csrf_origin
        """,
    ),
    *rows(
        "6. same-origin, with Host alone and without a cookie",
        "Site=same-origin Origin=https://shop.example Host=127.0.0.1:8000",
        """
        POST                                                                      -> pass
        POST Mode=cors Dest=empty                                                 -> pass
        POST but=anonymous                                                        -> csrf_token_missing
        POST Authorization=Basic␣eDp5                                             -> csrf_token_missing
        POST Mode=navigate Dest=empty                                             -> csrf_token_missing
        POST Mode=same-origin                                                     -> csrf_token_missing
        """,
    ),
]

NONE = [
    *rows(
        "7. none",
        "cookie Site=none own=https://shop.example",
        """
        POST                                              -> csrf_token_missing
        POST token=valid                                  -> pass
        POST token=stale                                  -> csrf_stale
        POST Mode=navigate Dest=document                  -> csrf_token_missing
        POST Origin=https://shop.example                  -> csrf_token_missing
        POST Origin=null                                  -> csrf_token_missing
        POST Origin=https://evil.test                     -> csrf_origin
        POST Referer=https://evil.test/                   -> csrf_token_missing
        GET  but=every_method Mode=navigate Dest=document -> csrf_token_missing
        """,
    ),
    *rows(
        "7. none, without a cookie",
        "Site=none own=https://shop.example",
        """
        POST                                              -> pass
        GET  but=every_method                             -> pass
        POST Authorization=Bearer␣x                       -> pass
        POST Authorization=Digest␣username="x"            -> csrf_token_missing
        POST Origin=null                                  -> csrf_token_missing
        POST but=anonymous                                -> csrf_token_missing
        """,
    ),
    *rows(
        "7. a site that no standard names counts as absent",
        "cookie own=https://shop.example",
        """
        POST Site=                                                -> csrf_token_missing
        POST Site=␣                                               -> csrf_token_missing
        POST Site=cross-origin                                    -> csrf_token_missing
        POST Site=Cross-Site                                      -> csrf_token_missing
        POST Site=SAME-ORIGIN                                     -> csrf_token_missing
        POST Site=Same-Origin Origin=null                         -> csrf_token_missing
        POST Site="same-origin"                                   -> csrf_token_missing
        POST Site=same_origin                                     -> csrf_token_missing
        POST Site=same-origin\x00                                 -> csrf_token_missing
        POST Site=\udcff                                          -> csrf_token_missing
        POST Site=same-origin\udcff token=valid                   -> pass
        POST Site=Same-Origin Origin=https://shop.example         -> pass
        POST Site=elsewhere Origin=https://shop.example           -> pass
        POST Site=elsewhere Origin=https://evil.test token=valid  -> csrf_origin
        POST Site=SAME-ORIGIN Origin=https://evil.test            -> csrf_origin
        POST Site=elsewhere Referer=https://evil.test/            -> csrf_origin
        """,
    ),
]

ABSENT = [
    *rows(
        "8. no site, with configured origins",
        "cookie own=https://shop.example,https://www.shop.example",
        """
        POST Origin=https://shop.example                                 -> pass
        POST Origin=https://www.shop.example                             -> pass
        POST Origin=https://shop.example Host=www.shop.example           -> pass
        POST Origin=https://shop.example Host=127.0.0.1:8000             -> pass
        POST Origin=https://shop.example Host=-                          -> pass
        POST Origin=Https://Shop.Example:443                             -> pass
        POST Origin=https://shop.example token=invalid                   -> pass
        POST Origin=https://shop.example Referer=https://evil.test/      -> pass
        POST Origin=https://shop.example Mode=navigate Dest=empty        -> pass
        PURGE Origin=https://shop.example                                -> pass
        POST                                                             -> csrf_token_missing
        POST Host=-                                                      -> csrf_token_missing
        POST token=valid                                                 -> pass
        POST Origin=null                                                 -> csrf_token_missing
        POST Origin=null token=valid                                     -> pass
        POST Origin=null Referer=https://evil.test/                      -> csrf_token_missing
        """,
    ),
    *rows(
        "8. no site, with configured origins, of which it is none",
        "cookie token=valid own=https://shop.example,https://www.shop.example",
        """
        POST Origin=https://evil.test                                    -> csrf_origin
        POST Origin=https://shop.example.evil.test                       -> csrf_origin
        POST Origin=https://evilshop.example                             -> csrf_origin
        POST Origin=https://shop.example.                                -> csrf_origin
        POST Origin=https://shop.example:444                             -> csrf_origin
        POST Origin=https://shop.example:80                              -> csrf_origin
        POST Origin=http://shop.example                                  -> csrf_origin
        POST Origin=http://shop.example:443                              -> csrf_origin
        POST Origin=wss://shop.example                                   -> csrf_origin
        POST Origin=https://blog.shop.example                            -> csrf_origin
        POST Origin=https://shop                                         -> csrf_origin
        POST Origin=https://example                                      -> csrf_origin
        POST Origin=https://shop-example                                 -> csrf_origin
        POST Origin=https://shop.example.test                            -> csrf_origin
        POST Origin=https://xn--shp-sna.example                          -> csrf_origin
        POST Origin=https://…                                            -> csrf_origin
        POST Origin=https://evil.test Host=evil.test                     -> csrf_origin
        POST Origin=https://evil.test Referer=https://shop.example/      -> csrf_origin
        POST Origin=https://evil.test mode=strict                        -> csrf_origin
        """,
    ),
    *rows(
        "8. no site, one configured origin",
        "cookie",
        """
        POST own=https://shop.example:8443 Origin=https://shop.example:8443                  -> pass
        POST own=https://shop.example:8443 Origin=https://shop.example                       -> csrf_origin
        POST own=http://shop.example Origin=http://shop.example:80                           -> pass
        POST own=http://shop.example Origin=https://shop.example                             -> csrf_origin
        POST own=http://[::1]:8000 Origin=http://[::1]:8000                                  -> pass
        POST own=http://[::1]:8000 Origin=http://[::1]                                       -> csrf_origin
        POST own=https://[2001:db8::a] Origin=https://[2001:DB8::A]:443                      -> pass
        POST own=https://xn--bcher-kva.example Origin=https://XN--bcher-kva.example          -> pass
        POST own=https://xn--bcher-kva.example Origin=https://bucher.example                 -> csrf_origin
        POST own=https://shop.example. Origin=https://shop.example.                          -> pass
        POST own=https://shop.example. Origin=https://shop.example                           -> csrf_origin
        """,
    ),
    *rows(
        "8. no site, with Host alone",
        "cookie",
        """
        POST                                                                  -> csrf_token_missing
        POST Host=-                                                           -> csrf_token_missing
        POST token=valid                                                      -> pass
        POST Origin=null                                                      -> csrf_token_missing
        POST Origin=https://shop.example                                      -> csrf_token_missing
        POST Origin=https://shop.example token=valid                          -> pass
        POST Origin=https://shop.example token=used                           -> csrf_token_used
        POST Origin=HTTPS://SHOP.EXAMPLE                                      -> csrf_token_missing
        POST Origin=https://shop.example Host=SHOP.EXAMPLE                    -> csrf_token_missing
        POST Origin=https://shop.example Host=shop.example:443                -> csrf_token_missing
        POST Origin=https://shop.example:443                                  -> csrf_token_missing
        POST Origin=http://shop.example Host=shop.example:80                  -> csrf_token_missing
        POST Origin=http://shop.example:8000 Host=shop.example:8000           -> csrf_token_missing
        POST Origin=http://[::1]:8000 Host=[::1]:8000                         -> csrf_token_missing
        POST Origin=https://[2001:DB8::1] Host=[2001:db8::1]:443              -> csrf_token_missing
        POST Origin=https://xn--bcher-kva.example Host=xn--bcher-kva.example  -> csrf_token_missing
        POST Origin=https://shop.example. Host=shop.example.                  -> csrf_token_missing
        POST Origin=https://evil.test                                         -> csrf_origin
        POST Origin=https://evil.test token=valid                             -> csrf_origin
        POST Origin=https://shop.example.evil.test                            -> csrf_origin
        POST Origin=https://evilshop.example                                  -> csrf_origin
        POST Origin=https://shop.example:444                                  -> csrf_origin
        POST Origin=https://shop.example.                                     -> csrf_origin
        POST Origin=https://shop.example Host=shop.example:80                 -> csrf_origin
        POST Origin=http://shop.example Host=shop.example:443                 -> csrf_origin
        POST Origin=http://[::1] Host=[::2]                                   -> csrf_origin
        POST Origin=http://[::1]:8000 Host=[::1]                              -> csrf_origin
        POST Origin=https://shop.example Host=-                               -> csrf_origin
        POST Origin=https://shop.example Host=                                -> csrf_origin
        POST Origin=https://shop.example Host=sh\xf6p.example                 -> csrf_origin
        POST Origin=https://shop.example Host=shop.example@evil.test          -> csrf_origin
        POST Origin=https://shop.example Host=shop.example,evil.test          -> csrf_origin
        """,
    ),
    *rows(
        "8. neither Origin nor site, but a Referer, with configured origins",
        "cookie own=https://shop.example,https://www.shop.example",
        """
        POST Referer=https://shop.example/cart?q=1#f                -> csrf_token_missing
        POST Referer=https://shop.example                           -> csrf_token_missing
        POST Referer=https://shop.example?q                         -> csrf_token_missing
        POST Referer=https://www.shop.example/                      -> csrf_token_missing
        POST Referer=HTTPS://Shop.Example:443/                      -> csrf_token_missing
        POST Referer=https://shop.example/caf\udce9                 -> csrf_token_missing
        POST Referer=https://shop.example/?next=https://evil.test/  -> csrf_token_missing
        POST Referer=https://shop.example/…                         -> csrf_token_missing
        POST Referer=https://shop.example/ Host=127.0.0.1:8000      -> csrf_token_missing
        POST Referer=https://shop.example/ token=valid              -> pass
        POST Referer=                                               -> csrf_token_missing
        POST Referer=about:blank                                    -> csrf_token_missing
        POST Referer=https://evil.test/                             -> csrf_origin
        POST Referer=https://evil.test/ token=valid                 -> csrf_origin
        POST Referer=https://evil.test/ Host=evil.test              -> csrf_origin
        POST Referer=https://evil.test/https://shop.example/        -> csrf_origin
        POST Referer=https://evil.test?https://shop.example/        -> csrf_origin
        POST Referer=https://evil.test/…                            -> csrf_origin
        POST Referer=https://…                                      -> csrf_origin
        POST Referer=https://shop.example.evil.test/                -> csrf_origin
        POST Referer=https://evilshop.example/                      -> csrf_origin
        POST Referer=https://shop.example:444/                      -> csrf_origin
        POST Referer=https://shop.example./                         -> csrf_origin
        POST Referer=http://shop.example/                           -> csrf_origin
        POST Referer=https://shop.example@evil.test/                -> csrf_origin
        POST Referer=https://user@shop.example/                     -> csrf_origin
        POST Referer=https://shop.example\\@evil.test/               -> csrf_origin
        POST Referer=https://sh\udcf6p.example/                     -> csrf_origin
        POST Referer=//shop.example/                                -> csrf_origin
        POST Referer=shop.example                                   -> csrf_origin
        POST Referer=https:shop.example                             -> csrf_origin
        POST Referer=https://shop.example/ Referer=https://evil.test/ -> csrf_origin
        POST Referer=https://evil.test/ Referer=https://shop.example/ -> csrf_origin
        """,
    ),
    *rows(
        "8. neither Origin nor site, but a Referer, with Host alone",
        "cookie trust=https://pay.example",
        """
        POST Referer=https://shop.example/                                   -> csrf_token_missing
        POST Referer=https://shop.example:443/ Host=shop.example             -> csrf_token_missing
        POST Referer=http://[::1]:8000/ Host=[::1]:8000                      -> csrf_token_missing
        POST Referer=https://pay.example/                                    -> csrf_token_missing
        POST Referer=https://pay.example/ token=valid                        -> pass
        POST Referer=https://evil.test/                                      -> csrf_origin
        POST Referer=https://shop.example/ Host=127.0.0.1:8000               -> csrf_origin
        POST Referer=https://shop.example/ Host=-                            -> csrf_origin
        """,
    ),
]

COOKIE = [
    *rows(
        "then, without a cookie",
        "own=https://shop.example",
        """
        POST                                                                 -> pass
        PURGE                                                                -> pass
        GET>POST                                                             -> pass
        POST Referer=https://shop.example/                                   -> pass
        POST token=invalid                                                   -> pass
        POST token=unread                                                    -> pass
        POST Origin=https://shop.example                                     -> pass
        POST Origin=null                                                     -> csrf_token_missing
        POST Origin=null token=invalid                                       -> csrf_token_invalid
        POST Origin=https://evil.test                                        -> csrf_origin
        POST Referer=https://evil.test/                                      -> csrf_origin
        POST Authorization=Bearer␣x                                          -> pass
        POST Authorization=                                                  -> pass
        POST Authorization=Token␣Basic                                       -> pass
        POST Authorization=Bearer␣x Origin=https://evil.test                 -> csrf_origin
        POST Authorization=Basic␣eDp5                                        -> csrf_token_missing
        POST Authorization=basic␣eDp5                                        -> csrf_token_missing
        POST Authorization=BASIC␣eDp5                                        -> csrf_token_missing
        POST Authorization=␣Basic␣eDp5                                       -> csrf_token_missing
        POST Authorization=Digest␣username="x"                               -> csrf_token_missing
        POST Authorization=Negotiate␣YII=                                    -> csrf_token_missing
        POST Authorization=NTLM␣TlRM                                         -> csrf_token_missing
        POST Authorization=Bearer␣x Authorization=Basic␣eDp5                 -> csrf_token_missing
        POST Authorization=Basic␣eDp5 Origin=https://shop.example            -> pass
        POST Authorization=Basic␣eDp5 Referer=https://shop.example/          -> csrf_token_missing
        POST but=anonymous                                                   -> csrf_token_missing
        POST but=anonymous Origin=https://shop.example                       -> pass
        POST but=anonymous Origin=null                                       -> csrf_token_missing
        POST but=anonymous Origin=https://evil.test                          -> csrf_origin
        GET  but=anonymous                                                   -> pass
        GET  but=anonymous,every_method                                      -> csrf_token_missing
        """,
    ),
    *rows(
        "then, without a cookie and with Host alone",
        "",
        """
        POST                                                                 -> pass
        POST Origin=https://shop.example                                     -> pass
        POST Origin=https://shop.example but=anonymous                       -> csrf_token_missing
        POST Origin=https://shop.example Authorization=Basic␣eDp5            -> csrf_token_missing
        POST Origin=null                                                     -> csrf_token_missing
        POST Origin=https://evil.test                                        -> csrf_origin
        POST Origin=https://shop.example:444                                 -> csrf_origin
        """,
    ),
]

TOKEN = [
    *rows(
        "then, what is known of the token",
        "cookie own=https://shop.example",
        """
        POST token=unread                                 -> csrf_token_missing
        POST token=missing                                -> csrf_token_missing
        POST token=invalid                                -> csrf_token_invalid
        POST token=used                                   -> csrf_token_used
        POST token=stale                                  -> csrf_stale
        POST token=valid                                  -> pass
        POST token=valid Authorization=Basic␣eDp5         -> pass
        POST token=valid but=anonymous                    -> pass
        """,
    ),
    *rows(
        "then, strict",
        "mode=strict own=https://shop.example",
        """
        POST                                                                     -> csrf_token_missing
        POST token=unread                                                        -> csrf_token_missing
        POST token=invalid                                                       -> csrf_token_invalid
        POST token=used                                                          -> csrf_token_used
        POST token=stale                                                         -> csrf_stale
        POST token=valid                                                         -> pass
        POST Origin=https://shop.example Site=same-origin                        -> csrf_token_missing
        POST Origin=https://shop.example Site=same-origin token=valid            -> pass
        POST cookie Origin=https://shop.example Site=same-origin                 -> csrf_token_missing
        POST cookie Origin=https://shop.example Site=same-origin token=used      -> csrf_token_used
        POST cookie Origin=https://shop.example Site=same-origin token=valid     -> pass
        POST Authorization=Bearer␣x                                              -> csrf_token_missing
        POST cookie Origin=null token=valid                                      -> pass
        POST cookie Origin=https://evil.test token=valid                         -> csrf_origin
        POST cookie Origin=https://evil.test token=invalid                       -> csrf_origin
        POST cookie Site=cross-site token=valid                                  -> csrf_site
        POST cookie Origin=https://shop.example/ token=valid                     -> csrf_header
        GET                                                                      -> pass
        OPTIONS                                                                  -> pass
        GET  but=every_method                                                    -> csrf_token_missing
        GET  but=every_method token=valid                                        -> pass
        GET>POST                                                                 -> csrf_token_missing
        """,
    ),
    *rows(
        "then, an endpoint that is strict or has a token of its own",
        "own=https://shop.example Origin=https://shop.example Site=same-origin",
        """
        POST but=strict                             -> csrf_token_missing
        POST but=strict cookie                      -> csrf_token_missing
        POST but=strict cookie token=stale          -> csrf_stale
        POST but=strict cookie token=valid          -> pass
        POST but=scoped                             -> csrf_token_missing
        POST but=scoped cookie token=invalid        -> csrf_token_invalid
        POST but=scoped cookie token=valid          -> pass
        GET  but=strict                             -> pass
        GET  but=scoped                             -> pass
        GET  but=strict,every_method                -> csrf_token_missing
        GET  but=scoped,every_method token=valid    -> pass
        """,
    ),
]

SOCKET = [
    *rows(
        "a WebSocket's handshake, with configured origins",
        "socket cookie own=https://shop.example,https://www.shop.example trust=https://pay.example",
        """
        GET Origin=https://shop.example                                       -> pass
        GET Origin=https://www.shop.example                                   -> pass
        GET Origin=https://pay.example                                        -> pass
        GET Origin=HTTPS://SHOP.example:443                                   -> pass
        GET Origin=https://shop.example Host=127.0.0.1:8000                   -> pass
        GET Origin=https://shop.example mode=strict                           -> pass
        GET Origin=https://shop.example Authorization=Basic␣eDp5              -> pass
        GET                                                                   -> csrf_origin
        GET token=valid                                                       -> csrf_origin
        GET Site=same-origin                                                  -> csrf_origin
        GET Referer=https://shop.example/                                     -> csrf_origin
        GET Origin=https://evil.test                                          -> csrf_origin
        GET Origin=https://evil.test token=valid                              -> csrf_origin
        GET Origin=https://evil.test Host=evil.test                           -> csrf_origin
        GET Origin=https://evil.test Site=same-origin                         -> csrf_origin
        GET Origin=http://shop.example                                        -> csrf_origin
        GET Origin=wss://shop.example                                         -> csrf_origin
        GET Origin=https://shop.example:444                                   -> csrf_origin
        GET Origin=https://shop.example.                                      -> csrf_origin
        GET Origin=https://shop.example.evil.test                             -> csrf_origin
        GET Origin=https://blog.shop.example                                  -> csrf_origin
        GET Origin=null                                                       -> csrf_origin
        GET Origin=                                                           -> csrf_origin
        GET Origin=https://shop.example/                                      -> csrf_origin
        GET Origin=https://shop.example@evil.test                             -> csrf_origin
        GET Origin=https://sh\udcf6p.example                                  -> csrf_origin
        GET Origin=https://shop.example Origin=https://shop.example           -> csrf_origin
        GET Origin=https://pay.example Origin=https://evil.test               -> csrf_origin
        GET Origin=https://shop.example,https://shop.example                  -> csrf_origin
        GET Origin=https://evil.test but=every_method,strict                  -> csrf_origin
        """,
    ),
    *rows(
        "a WebSocket's handshake, with Host alone",
        "socket cookie",
        """
        GET Origin=https://shop.example                              -> pass
        GET Origin=https://shop.example Host=SHOP.example:443        -> pass
        GET Origin=http://localhost:8000 Host=localhost:8000         -> pass
        GET Origin=http://[::1]:8000 Host=[::1]:8000                 -> pass
        GET                                                          -> csrf_origin
        GET Origin=null                                              -> csrf_origin
        GET Origin=null Host=-                                       -> csrf_origin
        GET Origin=https://shop.example/                             -> csrf_origin
        GET Origin=https://shop.example,https://shop.example         -> csrf_origin
        GET Origin=https://evil.test                                 -> csrf_origin
        GET Origin=https://shop.example:444                          -> csrf_origin
        GET Origin=http://shop.example Host=shop.example:443         -> csrf_origin
        GET Origin=https://shop.example Host=127.0.0.1:8000          -> csrf_origin
        GET Origin=https://shop.example Host=-                       -> csrf_origin
        """,
    ),
    *rows(
        "a WebSocket's handshake, that of another site, says the browser: the Host does not tell http from https",
        "socket cookie trust=https://pay.example",
        """
        GET Origin=http://shop.example Site=cross-site               -> csrf_site
        GET Origin=http://shop.example Site=same-site                -> csrf_site
        GET Origin=http://shop.example Site=none,cross-site          -> csrf_site
        GET Origin=http://shop.example Site=none Site=cross-site     -> csrf_site
        GET Origin=https://pay.example Site=cross-site               -> pass
        GET Origin=https://shop.example Site=same-origin             -> pass
        """,
    ),
    *rows(
        "a WebSocket's handshake, without a cookie",
        "socket own=https://shop.example",
        """
        GET                                                          -> pass
        GET Origin=https://shop.example                              -> pass
        GET Origin=https://evil.test                                 -> pass
        GET Origin=null                                              -> pass
        GET Origin=https://evil.test Authorization=Bearer␣x          -> pass
        GET Origin=https://shop.example Authorization=Basic␣eDp5     -> pass
        GET Origin=https://evil.test Authorization=Basic␣eDp5        -> csrf_origin
        GET Authorization=Negotiate␣YII=                             -> csrf_origin
        """,
    ),
]

UPGRADE = [
    *rows(
        "a WebSocket's handshake, that of an endpoint which asks for more",
        "socket own=https://shop.example",
        """
        GET Origin=https://evil.test but=every_method                               -> csrf_origin
        GET Site=cross-site but=every_method                                        -> csrf_site
        GET Origin=https://shop.example but=every_method,strict                     -> pass
        GET Origin=https://shop.example but=every_method,strict cookie              -> pass
        """,
    ),
    *rows(
        "a GET of HTTP with the header of a handshake, where more is asked than of a GET",
        "upgrade own=https://shop.example trust=https://pay.example",
        """
        GET      Origin=https://evil.test but=every_method                          -> csrf_origin
        GET      Origin=https://evil.test but=every_method,strict                   -> csrf_origin
        GET      Origin=https://evil.test but=every_method,strict token=valid       -> csrf_origin
        GET      Site=cross-site but=every_method                                   -> csrf_site
        GET      but=every_method,strict                                            -> csrf_token_missing
        GET      Origin=https://shop.example but=every_method,strict                -> csrf_token_missing
        GET      Origin=https://shop.example but=every_method,strict cookie         -> csrf_token_missing
        GET      Origin=https://pay.example but=every_method,scoped cookie          -> csrf_token_missing
        GET      Origin=https://shop.example but=every_method cookie                -> pass
        GET      Origin=https://shop.example but=every_method,strict token=valid    -> pass
        GET>POST Origin=https://evil.test                                           -> csrf_origin
        GET>POST Site=cross-site cookie Origin=https://shop.example                 -> csrf_site
        GET>POST Origin=https://shop.example mode=strict                            -> csrf_token_missing
        GET>HEAD Site=cross-site                                                    -> csrf_site
        """,
    ),
]

TABLE = [
    *EXEMPT,
    *METHODS,
    *HEAD,
    *HEADER,
    *TRUSTED,
    *SITE,
    *SAME_ORIGIN,
    *NONE,
    *ABSENT,
    *COOKIE,
    *TOKEN,
    *SOCKET,
    *UPGRADE,
]

# What opens a WebSocket is convicted by the same, over whatever it comes.
UPGRADED = [row._replace(request=row.request.replace("socket", "upgrade")) for row in SOCKET]


TLS = [
    *rows(
        "8. Host alone, over TLS: what came without it is another origin",
        "cookie tls",
        """
        POST Origin=http://shop.example                           -> csrf_origin
        POST Origin=https://shop.example                          -> csrf_token_missing
        POST Referer=http://shop.example/                         -> csrf_origin
        POST Referer=https://shop.example/                        -> csrf_token_missing
        POST Origin=http://shop.example Site=same-origin          -> csrf_token_missing
        POST Origin=https://shop.example Site=same-origin         -> pass
        GET  socket Origin=http://shop.example                    -> csrf_origin
        GET  socket Origin=https://shop.example                   -> pass
        """,
    ),
    *rows(
        "WebSockets without the cookie, where that is no excuse",
        "socket but=anonymous own=https://shop.example",
        """
        GET                                                       -> csrf_origin
        GET  Origin=https://evil.test                             -> csrf_origin
        GET  Origin=https://shop.example                          -> pass
        """,
    ),
]


@pytest.mark.parametrize("row", [*TABLE, *UPGRADED, *TLS], ids=str)
def test_each_request_has_the_verdict_that_the_table_gives_it(row):
    rejection = case_of(row.request).check()
    assert (rejection.code if rejection else "pass") == row.verdict


def test_the_table_has_every_code_and_no_request_twice():
    requests = Counter(row.request for row in TABLE)
    assert [request for request, count in requests.items() if count > 1] == []
    assert {row.verdict for row in TABLE} == {"pass", *CODES}


def test_the_mode_that_only_reports_has_the_verdicts_of_layered():
    requests = [row.request for row in TABLE if "mode=" not in row.request]
    assert [case_of(f"{request} mode=report").check() for request in requests] == [
        case_of(f"{request} mode=layered").check() for request in requests
    ]


def test_a_token_is_looked_for_wherever_one_was_missed_and_nowhere_else():
    for row in TABLE:
        if "token=" not in row.request:
            missing, unread = case_of(row.request).check(), case_of(f"{row.request} token=unread").check()
            assert (missing and missing.code) == (unread and unread.code), row
            assert not (missing and missing.needs_token), row
            assert bool(unread and unread.needs_token) == bool(unread and unread.code == "csrf_token_missing"), row


@pytest.mark.parametrize("token", TokenState, ids=str)
def test_who_has_looked_for_the_token_is_not_asked_to_look_again(token):
    rejection = case_of("POST cookie")._replace(token=token).check()
    assert rejection is None or not rejection.needs_token


@pytest.mark.parametrize(
    "request_, words",
    [
        ("POST Origin=https://shop.example Origin=https://evil.test", "Origin"),
        ("POST Origin=https://shop.example/", "Origin"),
        ("POST Site=none Site=none", "Sec-Fetch-Site"),
        ("POST Site=same-site", "Sec-Fetch-Site: same-site; if that is a site of yours, name it in "),
        ("POST Site=cross-site Origin=https://evil.test", "Sec-Fetch-Site: cross-site, of Origin https://evil.test; "),
        ("POST Origin=https://evil.test", "https://evil.test"),
        ("POST Referer=https://evil.test/secret", "Referer of https://evil.test is"),
        ("POST Referer=https://user@shop.example/", "Referer of no origin"),
        ("GET socket cookie", "WebSocket"),
        ("GET socket cookie Origin=https://evil.test", "https://evil.test"),
        ("POST Origin=null", "null"),
        ("POST cookie Site=none", "Sec-Fetch-Site: none"),
        ("POST cookie", "neither Origin nor Sec-Fetch-Site"),
        ("POST cookie", "a form of your own needs csrf_input(), a client the header"),
        ("POST cookie Site=same-origin Mode=same-origin", "service worker"),
        ("POST mode=strict", "every request"),
    ],
)
def test_a_reason_names_the_header_and_the_origin_that_the_log_should_have(request_, words):
    rejection = case_of(request_).check()
    assert rejection is not None
    assert words in rejection.reason


@pytest.mark.parametrize(
    "request_, is_so",
    [
        ("POST Site=cross-site", True),
        ("post Site=cross-site", True),
        ("DELETE Site=cross-site Origin=https://shop.example", True),
        ("POST Site=same-origin Site=cross-site", True),
        ("POST Site=same-origin,cross-site", True),
        ("POST Origin=https://evil.test", True),
        ("POST Origin=https://shop.example Host=127.0.0.1:8000", True),
        ("POST Origin=https://evil.test own=https://shop.example", True),
        ("POST Origin=https://evil.test Host=evil.test own=https://shop.example", True),
        ("POST Origin=https://shop.example Origin=https://evil.test own=https://shop.example", True),
        ("POST Origin=https://evil.test Site=elsewhere", True),
        ("GET Site=cross-site", False),
        ("OPTIONS Site=cross-site Origin=https://evil.test", False),
        ("POST Site=same-site", False),
        ("POST Site=same-origin", False),
        ("POST Site=none", False),
        ("POST", False),
        ("POST Origin=null", True),
        ("POST Origin=https://", False),
        ("POST Origin=https://shop.example", False),
        ("POST Origin=https://shop.example own=https://shop.example Host=127.0.0.1:8000", False),
        ("POST Origin=https://www.shop.example own=https://shop.example,https://www.shop.example", False),
    ],
)
def test_an_unsafe_request_of_another_site_is_one_from_which_lax_withholds_the_cookie(request_, is_so):
    case = case_of(request_)
    assert is_cross_site(case.facts, case.own) == is_so


# --- what must hold of every request

ORIGINS = ["https://shop.example", "https://www.shop.example", "https://pay.example", "https://evil.test", "null"]
origin_lines = st.sampled_from(ORIGINS).map(str.encode) | st.binary(max_size=40)
site_lines = st.sampled_from([b"same-origin", b"same-site", b"cross-site", b"none"]) | st.binary(max_size=12)
mode_lines = st.sampled_from([b"navigate", b"same-origin", b"cors", b"no-cors"]) | st.binary(max_size=12)
dest_lines = st.sampled_from([b"empty", b"document", b"iframe"]) | st.binary(max_size=12)
referer_lines = (
    st.sampled_from(ORIGINS).map(lambda origin: origin.encode() + b"/")
    | st.binary(max_size=40).map(lambda tail: b"https://" + tail)
    | st.binary(max_size=40)
)
authorization_lines = st.sampled_from([b"Basic eDp5", b"Bearer x", b"Negotiate YII="]) | st.binary(max_size=12)
hosts = st.none() | st.sampled_from(["shop.example", "shop.example:443", "127.0.0.1:8000"]) | st.text(max_size=12)
methods = st.sampled_from(["GET", "HEAD", "OPTIONS", "POST", "post", "PURGE"]) | st.text(max_size=6)
unsafe = st.sampled_from(["POST", "PUT", "DELETE", "post", "get", "PURGE", "QUERY"])


def lines(values: st.SearchStrategy[bytes], most: int = 2) -> st.SearchStrategy[list[bytes]]:
    return st.lists(values, max_size=most)


facts_of_any = st.builds(
    Facts,
    method=methods,
    seen_method=methods,
    origin=lines(origin_lines),
    site=lines(site_lines),
    fetch_mode=lines(mode_lines),
    fetch_dest=lines(dest_lines),
    referer=lines(referer_lines),
    host=hosts,
    authorization=lines(authorization_lines),
    has_cookie=st.booleans(),
    is_websocket=st.booleans(),
    is_http=st.booleans(),
).map(lambda facts: facts._replace(is_websocket=facts.is_websocket or not facts.is_http))
policies = st.builds(
    CSRF,
    st.sampled_from(["layered", "strict", "report"]),
    trusted_origins=st.sampled_from([(), ("https://pay.example",)]),
)
owns = st.sampled_from([(), ("https://shop.example",), ("https://shop.example", "https://www.shop.example")])
asks = st.builds(Protection, *[st.booleans()] * 5)
tokens = st.sampled_from([None, *TokenState])
cases = st.builds(Case, facts_of_any, policies, owns, asks, tokens)

# At most one line of each, of what browsers send: most of these get past step 3.
plausible = st.builds(
    Facts,
    method=unsafe,
    seen_method=unsafe,
    origin=lines(st.sampled_from(ORIGINS).map(str.encode), 1),
    site=lines(site_lines, 1),
    fetch_mode=lines(mode_lines, 1),
    fetch_dest=lines(dest_lines, 1),
    referer=lines(referer_lines, 1),
    host=hosts,
    authorization=lines(authorization_lines, 1),
    has_cookie=st.booleans(),
)
plausible_cases = st.builds(
    Case, plausible, policies, owns, asks.map(lambda asked: asked._replace(exempt=False)), tokens
)


@given(cases | plausible_cases)
def test_any_bytes_in_any_header_get_a_verdict_whose_reason_is_one_plain_line(case):
    rejection = case.check()
    if rejection is not None:
        assert rejection.code in CODES
        assert rejection.reason.isascii()
        assert rejection.reason.isprintable()


@pytest.mark.parametrize("name", ["origin", "site", "fetch_mode", "fetch_dest", "referer", "authorization"])
@given(st.data())
def test_bytes_of_one_header_alone_raise_nothing(name, data):
    facts = Facts("POST", "POST", host="shop.example", has_cookie=True)
    case = Case(facts._replace(**{name: [data.draw(st.binary())]}), CSRF(), (), Protection(), None)
    case.check()


def convicted(case: Case) -> st.SearchStrategy[Case]:
    """The same request with a header that convicts it, which is trusted by nobody."""
    own = case.own or ("https://shop.example",)
    convictions: list[dict[str, Any]] = [
        {"origin": [b"https://shop.example", b"https://shop.example"]},
        {"origin": [b"https://pay.example,https://pay.example"]},
        {"origin": [b"https://user@shop.example"]},
        {"origin": [b"https://shop.example/"]},
        {"origin": [b"https://sh\xf6p.example"]},
        {"site": [b"same-origin", b"same-origin"]},
        {"site": [b"none,none"]},
        {"site": [b"cross-site"], "origin": [own[0].encode()]},
        {"site": [b"same-site"], "origin": []},
        {"site": [b"cross-site"], "origin": [b"null"]},
        {"site": [], "origin": [b"https://evil.test"], "host": "shop.example"},
        {"site": [], "origin": [], "referer": [b"https://evil.test/"], "host": "shop.example"},
    ]
    if case.own:
        convictions.append({"site": [b"same-origin"], "origin": [b"https://evil.test"]})
    return st.sampled_from(convictions).map(lambda headers: case._replace(facts=case.facts._replace(**headers)))


@given(plausible_cases.flatmap(convicted))
def test_a_header_that_convicts_is_outweighed_by_no_token_cookie_mode_or_demand(case):
    rejection = case.check()
    assert rejection is not None
    assert rejection.code in {"csrf_header", "csrf_site", "csrf_origin"}
    assert not rejection.needs_token


@given(plausible_cases.flatmap(convicted))
def test_a_head_that_a_header_convicts_does_not_pass(case):
    assert case._replace(facts=case.facts._replace(method="HEAD", seen_method="HEAD")).check() is not None


@given(cases | plausible_cases)
@example(case_of("GET but=every_method own=https://shop.example Origin=https://evil.test"))
@example(case_of("GET but=every_method,strict own=https://shop.example Origin=https://shop.example"))
def test_a_header_that_asks_for_a_websocket_lets_nothing_pass_that_was_refused_without_it(case):
    def upgraded(case: Case, is_websocket: bool) -> Case:
        return case._replace(facts=case.facts._replace(is_websocket=is_websocket, is_http=True))

    if upgraded(case, is_websocket=False).check() is not None:
        assert upgraded(case, is_websocket=True).check() is not None


@given(cases | plausible_cases)
def test_a_cookie_turns_no_rejection_into_a_pass(case):
    without = case._replace(facts=case.facts._replace(has_cookie=False))
    if without.check() is not None:
        assert case._replace(facts=case.facts._replace(has_cookie=True)).check() is not None


@given(cases | plausible_cases)
def test_a_valid_token_lets_pass_what_needs_one_and_changes_nothing_else(case):
    unread = case._replace(token=None).check()
    valid = case._replace(token=TokenState.VALID).check()
    assert valid == (None if unread is not None and unread.needs_token else unread)


@given(
    cases | plausible_cases, st.sampled_from([None, *(state for state in TokenState if state is not TokenState.VALID)])
)
def test_a_token_that_is_not_valid_is_worth_no_more_than_none(case, state):
    missing = case._replace(token=TokenState.MISSING).check()
    assert (case._replace(token=state).check() is None) == (missing is None)


@given(cases | plausible_cases)
def test_an_endpoint_that_demands_more_lets_nothing_pass_that_was_refused(case):
    if case._replace(asked=Protection()).check() is not None:
        more = case._replace(asked=case.asked._replace(exempt=False))
        assert more.check() is not None


@given(cases | plausible_cases)
def test_strict_lets_nothing_pass_that_layered_refuses(case):
    policies = {mode: CSRF(mode, trusted_origins=case.policy.trusted_origins) for mode in ("layered", "strict")}
    if case._replace(policy=policies["layered"]).check() is not None:
        assert case._replace(policy=policies["strict"]).check() is not None


@given(plausible_cases, st.sampled_from(["https://evil.test", "https://pay.example", "http://shop.example"]))
@example(case_of("POST Site=same-origin own=https://shop.example token=valid"), "https://evil.test")
def test_an_unsafe_request_of_an_origin_neither_own_nor_trusted_does_not_pass(case, origin):
    # `none` is what no page sends, so no origin comes with it: step 7 looks no further.
    assume(case.own and origin not in case.policy.trusted_origins)
    assume([line.strip(b" \t") for line in case.facts.site] != [b"none"])
    assert case._replace(facts=case.facts._replace(origin=[origin.encode()])).check() is not None


@given(cases, st.sampled_from(["https://evil.test", "https://pay.example", "http://shop.example", "null"]))
def test_a_handshake_with_the_cookie_of_an_origin_neither_own_nor_trusted_does_not_pass(case, origin):
    assume(origin not in case.policy.trusted_origins)
    facts = case.facts._replace(origin=[origin.encode()], has_cookie=True, is_websocket=True)
    asked, own = case.asked._replace(exempt=False), case.own or ("https://shop.example",)
    assert case._replace(facts=facts, asked=asked, own=own).check() is not None


@given(cases | plausible_cases)
def test_own_origins_that_are_configured_leave_no_word_to_the_host(case):
    assume(case.own)
    assert case._replace(facts=case.facts._replace(host=None)).check() == case.check()


# --- the policy


def view() -> None: ...


def test_a_policy_unless_told_otherwise_is_layered_and_trusts_nobody():
    policy = CSRF()
    assert policy.mode == "layered"
    assert policy.trusted_origins == ()
    assert policy.single_use is False
    assert policy.token_age is None
    assert (policy.field, policy.header) == ("csrf_token", "X-CSRF-Token")
    assert policy.protect_anonymous is False
    assert policy.body_limit == 1024 * 1024


def test_a_policy_keeps_what_it_is_told():
    policy = CSRF(
        "strict",
        trusted_origins=["https://pay.example:443", "http://localhost:3000"],
        single_use=True,
        token_age=timedelta(days=1, seconds=1),
        field="_csrf",
        header="X-XSRF-Token",
        protect_anonymous=True,
        body_limit=0,
    )
    assert policy.mode == "strict"
    assert policy.trusted_origins == ("https://pay.example", "http://localhost:3000")
    assert policy.single_use is True
    assert policy.token_age == 86401
    assert (policy.field, policy.header) == ("_csrf", "X-XSRF-Token")
    assert policy.protect_anonymous is True
    assert policy.body_limit == 0


def test_one_trusted_origin_needs_no_list():
    assert CSRF(trusted_origins="https://pay.example").trusted_origins == ("https://pay.example",)


def test_tokens_that_pass_once_are_asked_of_every_request():
    assert CSRF(single_use=True).mode == "strict"
    assert CSRF("strict", single_use=True).mode == "strict"
    assert CSRF("strict").single_use is False


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"mode": "lax"}, ["mode", "'lax'", "'layered'", "'strict'", "'report'"]),
        ({"mode": "Strict"}, ["mode", "'Strict'"]),
        ({"mode": ""}, ["mode", "''"]),
        ({"mode": True}, ["mode", "True"]),
        ({"mode": ["layered"]}, ["mode", "['layered']"]),
        ({"trusted_origins": "https://pay.example/path"}, ["trusted origin", "'https://pay.example/path'", "path"]),
        ({"trusted_origins": "https://pay.example/"}, ["trusted origin", "'https://pay.example/'", "slash"]),
        ({"trusted_origins": "https://pay.example?q=1"}, ["trusted origin", "query"]),
        ({"trusted_origins": "https://pay.example#f"}, ["trusted origin", "'https://pay.example#f'"]),
        ({"trusted_origins": "pay.example"}, ["trusted origin", "'pay.example'", "scheme"]),
        ({"trusted_origins": "//pay.example"}, ["trusted origin", "'//pay.example'", "scheme"]),
        ({"trusted_origins": "pay.example:443"}, ["trusted origin", "'pay.example:443'", "scheme"]),
        ({"trusted_origins": "https://"}, ["trusted origin", "host"]),
        ({"trusted_origins": ""}, ["trusted origin", "''", "scheme"]),
        ({"trusted_origins": "null"}, ["trusted origin", "'null'"]),
        ({"trusted_origins": "*"}, ["trusted origin", "'*'"]),
        ({"trusted_origins": "https://*"}, ["trusted origin", "'https://*'", "pattern"]),
        ({"trusted_origins": "https://*.pay.example"}, ["trusted origin", "'https://*.pay.example'", "pattern"]),
        ({"trusted_origins": "https://pay.example:*"}, ["trusted origin", "'https://pay.example:*'", "pattern"]),
        ({"trusted_origins": "https://Pay.example"}, ["trusted origin", "'https://Pay.example'", "lower case"]),
        ({"trusted_origins": "HTTPS://pay.example"}, ["trusted origin", "'HTTPS://pay.example'", "lower case"]),
        ({"trusted_origins": "https://user@pay.example"}, ["trusted origin", "'https://user@pay.example'", "user"]),
        ({"trusted_origins": "https://u:p@pay.example"}, ["trusted origin", "user"]),
        ({"trusted_origins": "https://@pay.example"}, ["trusted origin", "user"]),
        ({"trusted_origins": "https://b\xfccher.example"}, ["trusted origin", "ASCII", "xn--"]),
        ({"trusted_origins": "https://pay.example "}, ["trusted origin", "'https://pay.example '", "blanks"]),
        ({"trusted_origins": "https://pay.example\n"}, ["trusted origin", "blanks"]),
        ({"trusted_origins": "https://pay.example,https://b.example"}, ["trusted origin", "https://b.example"]),
        ({"trusted_origins": "https://pay.example:0"}, ["trusted origin", "'https://pay.example:0'"]),
        ({"trusted_origins": "https://pay.example:65536"}, ["trusted origin", "'https://pay.example:65536'"]),
        ({"trusted_origins": "https://pay.example:"}, ["trusted origin", "'https://pay.example:'"]),
        ({"trusted_origins": "https://[::1"}, ["trusted origin", "'https://[::1'"]),
        ({"trusted_origins": ["https://pay.example", "b.example"]}, ["trusted origin", "'b.example'"]),
        ({"trusted_origins": [b"https://pay.example"]}, ["trusted origin", "b'https://pay.example'", "text"]),
        ({"trusted_origins": b"https://pay.example"}, ["trusted origin", "b'https://pay.example'", "text"]),
        ({"trusted_origins": 1}, ["trusted origin", "1", "text"]),
        ({"single_use": True, "mode": "layered"}, ["single_use", "'layered'", "'strict'"]),
        ({"single_use": True, "mode": "report"}, ["single_use", "'report'", "'strict'"]),
        ({"single_use": 1}, ["single_use", "1"]),
        ({"single_use": None}, ["single_use", "None"]),
        ({"token_age": 0}, ["token_age", "0", "positive"]),
        ({"token_age": -1}, ["token_age", "-1"]),
        ({"token_age": timedelta(0)}, ["token_age", "positive"]),
        ({"token_age": timedelta(days=-1)}, ["token_age", "positive"]),
        ({"token_age": float("inf")}, ["token_age", "inf"]),
        ({"token_age": float("nan")}, ["token_age", "nan"]),
        ({"token_age": True}, ["token_age", "True"]),
        ({"token_age": "3600"}, ["token_age", "'3600'"]),
        ({"field": ""}, ["field", "''"]),
        ({"field": None}, ["field", "None"]),
        ({"field": b"csrf_token"}, ["field", "b'csrf_token'"]),
        ({"header": "Accept"}, ["header", "'Accept'"]),
        ({"header": "Accept-Language"}, ["header", "'Accept-Language'"]),
        ({"header": "Content-Language"}, ["header", "'Content-Language'"]),
        ({"header": "Range"}, ["header", "'Range'"]),
        ({"header": "Cookie"}, ["header", "'Cookie'"]),
        ({"header": "cookie"}, ["header", "'cookie'"]),
        ({"header": "Authorization"}, ["header", "'Authorization'"]),
        ({"header": "Origin"}, ["header", "'Origin'"]),
        ({"header": "Referer"}, ["header", "'Referer'"]),
        ({"header": "Host"}, ["header", "'Host'"]),
        ({"header": "Content-Type"}, ["header", "'Content-Type'"]),
        ({"header": "Content-Length"}, ["header", "'Content-Length'"]),
        ({"header": ""}, ["header", "''"]),
        ({"header": "X CSRF"}, ["header", "'X CSRF'"]),
        ({"header": "X-CSRF:"}, ["header", "'X-CSRF:'"]),
        ({"header": "X-CSRF\r\n"}, ["header"]),
        ({"header": "X-\xc7SRF"}, ["header"]),
        ({"header": b"X-CSRF-Token"}, ["header", "b'X-CSRF-Token'"]),
        ({"header": None}, ["header", "None"]),
        ({"protect_anonymous": "/log-in"}, ["protect_anonymous", "'/log-in'", "True or False"]),
        ({"protect_anonymous": [view]}, ["protect_anonymous", "True or False"]),
        ({"body_limit": -1}, ["body_limit", "-1"]),
        ({"body_limit": 1.5}, ["body_limit", "1.5"]),
        ({"body_limit": True}, ["body_limit", "True"]),
        ({"body_limit": None}, ["body_limit", "None"]),
        ({"body_limit": "1 MiB"}, ["body_limit", "'1 MiB'"]),
        ({"origin": "https://shop.example"}, ["'origin'", "configure", "trusted_origins"]),
        ({"origins": "https://shop.example"}, ["'origins'", "configure", "trusted_origins"]),
        ({"trusted": "https://pay.example"}, ["'trusted'", "spelt `trusted_origins`"]),
        ({"max_age": 3600}, ["'max_age'", "spelt `token_age`"]),
        ({"secret": "s"}, ["'secret'", "leave it out"]),
        ({"secret_key": "s"}, ["'secret_key'", "leave it out"]),
        ({"exempt_urls": ["/webhook"]}, ["'exempt_urls'", "@csrf_exempt", "paths"]),
        ({"exempt_paths": ["/webhook"]}, ["'exempt_paths'", "@csrf_exempt", "paths"]),
        ({"header_name": "X-Token"}, ["'header_name'", "spelt `header`"]),
        ({"field_name": "token"}, ["'field_name'", "spelt `field`"]),
        (
            {"colour": "red"},
            [
                "'colour'",
                "mode",
                "trusted_origins",
                "single_use",
                "token_age",
                "field",
                "header",
                "protect_anonymous",
                "body_limit",
            ],
        ),
    ],
    ids=repr,
)
def test_a_policy_that_cannot_work_is_an_error_that_names_the_setting(settings, words):
    with pytest.raises(ConfigurationError) as raised:
        CSRF(**settings)
    message = str(raised.value)
    assert [word for word in words if word not in message] == []
