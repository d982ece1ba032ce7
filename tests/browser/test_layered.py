"""Layered mode in real browsers: what Chromium and Firefox say of a request, and that it is enough."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from server_session import CSRF, CookieHandler
from tests import servers
from tests.browser.csrf.certificate import make_certificate
from tests.browser.csrf.driver import Browser, Visitor, launched
from tests.browser.csrf.shop import Seen, Town
from tests.parts import ALL

# Fetch Metadata is sent to https and to loopback, whose names end in localhost; `.test` is neither.
HOSTS = {
    "https": ("shop.example.localhost", "evil.example.localhost", "evil.other.localhost"),
    "loopback": ("shop.example.localhost", "evil.example.localhost", "evil.other.localhost"),
    "plain": ("shop.plain.test", "evil.plain.test", "evil.other.test"),
}
again = pytest.mark.again

FORGERS = ["sibling", "foreign"]


class Way(NamedTuple):
    """How a page sends a request: what page, and by what."""

    page: str
    send: Callable[[Visitor, str, dict[str, str]], Any]


FORM = Way("/", Visitor.submit)
FRAMED_FORM = Way("/", Visitor.submit_into_frame)
FETCH = Way("/", Visitor.send)
# A page under `Referrer-Policy: no-referrer`, and a frame that has no origin.
QUIET_FORM = Way("/quiet", Visitor.submit)
QUIET_FETCH = Way("/quiet", Visitor.send)
SANDBOXED_FORM = Way("/", Visitor.submit_from_sandbox)


class Scene(NamedTuple):
    """A shop, what surrounds it, and a visitor."""

    town: Town
    visitor: Visitor
    shop: str
    sibling: str
    foreign: str

    def log_in(self, name: str, visitor: Visitor | None = None) -> None:
        visitor = visitor or self.visitor
        visitor.goto(f"{self.shop}/")
        visitor.send("/log-in", {"name": name})
        assert self.data(visitor) == {"user": name}

    def data(self, visitor: Visitor | None = None) -> dict[str, Any]:
        """The session's data, as the server has it."""
        return json.loads((visitor or self.visitor).goto(f"{self.shop}/state"))

    def token(self) -> str:
        self.visitor.goto(f"{self.shop}/")
        return self.visitor.read("/token")

    def write(self, way: Way, origin: str, text: str = "written", path: str = "/write", **fields: str) -> Seen:
        """Send a write from a page of an origin; return what came, and what became of it."""
        before = len(self.town.seen)
        self.visitor.goto(f"{origin}{way.page}")
        way.send(self.visitor, f"{self.shop}{path}", {"text": text, **fields})
        (seen,) = (seen for seen in self.town.seen[before:] if seen.path == path)
        return seen

    def install(self, way: str) -> None:
        """Install the shop's own service worker."""
        self.visitor.goto(f"{self.shop}/")
        self.visitor.install(f"/worker.js?way={way}")

    def connect(self, origin: str) -> str:
        self.visitor.goto(f"{origin}/")
        return self.visitor.connect(f"{self.shop.replace('http', 'ws', 1)}/talk")


# Firefox in the long form alone.
BROWSERS = ("chromium", "firefox-esr") if ALL else ("chromium",)


@pytest.fixture(scope="module", params=[pytest.param(name, marks=pytest.mark.needs(name)) for name in BROWSERS])
def browser(request: pytest.FixtureRequest) -> Iterator[Browser]:
    with launched(request.param) as browser:
        yield browser


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_certificate(tmp_path_factory.mktemp("certificate"), *HOSTS["https"])


@pytest.fixture
def stage(browser: Browser, serve: Callable[..., Any], certificate: dict[str, Path]) -> Iterator[Callable[..., Scene]]:
    """Set a scene: `stage("https")`. Keywords are the middleware's; `configured=True` names the shop's origin."""
    with contextlib.ExitStack() as visitors:

        def stage(place: str, *, configured: bool = False, **settings: Any) -> Scene:
            port = servers.free_port()
            scheme = "https" if place == "https" else "http"
            origins = [f"{scheme}://{host}:{port}" for host in HOSTS[place]]
            town = Town(**settings, **({"origin": origins[0]} if configured else {}))
            serve(town, port=port, ws="wsproto", **(certificate if place == "https" else {}))
            return Scene(town, visitors.enter_context(browser.visitor()), *origins)

        yield stage


class TestOwnPages:
    @pytest.mark.parametrize("place, configured", [("https", True), pytest.param("loopback", False, marks=again)])
    def test_forms_and_fetch_pass_without_a_token(self, stage, place, configured):
        scene = stage(place, configured=configured)
        scene.log_in("Ada")

        for number, way in enumerate((FORM, FRAMED_FORM, FETCH, QUIET_FETCH)):
            seen = scene.write(way, scene.shop, str(number))

            assert (seen.status, seen.site) == (200, "same-origin"), (way, seen)
            assert scene.data() == {"user": "Ada", "written": str(number)}

    @pytest.mark.parametrize("place", ["https", "plain"])
    def test_a_form_under_no_referrer_rests_on_the_token(self, stage, place):
        scene = stage(place, configured=True)
        scene.log_in("Ada")

        bare = scene.write(QUIET_FORM, scene.shop)
        assert scene.data() == {"user": "Ada"}
        signed = scene.write(QUIET_FORM, scene.shop, csrf_token=scene.token())

        assert bare.origin == signed.origin == "null"
        assert (bare.status, bare.rejection) == (403, "csrf_token_missing")
        assert signed.status == 200
        assert scene.data() == {"user": "Ada", "written": "written"}

    def test_plain_http_rests_on_the_token(self, stage):
        scene = stage("plain")
        scene.log_in("Ada")

        for way in (FORM, FETCH):
            bare = scene.write(way, scene.shop)
            assert (bare.site, bare.mode, bare.dest) == (None, None, None), bare
            assert (bare.status, bare.rejection) == (403, "csrf_token_missing"), (way, bare)
        assert scene.data() == {"user": "Ada"}
        assert scene.write(FORM, scene.shop, "by form", csrf_token=scene.token()).status == 200
        assert scene.data() == {"user": "Ada", "written": "by form"}
        header = {"X-CSRF-Token": scene.token()}
        assert scene.visitor.send("/write", {"text": "by header"}, header) == "200"
        assert scene.data() == {"user": "Ada", "written": "by header"}

    def test_on_plain_http_the_configured_origin_is_known(self, stage):
        scene = stage("plain", configured=True)
        scene.log_in("Ada")

        for number, way in enumerate((FORM, FETCH)):
            seen = scene.write(way, scene.shop, str(number))

            assert (seen.status, seen.site, seen.origin) == (200, None, scene.shop), (way, seen)
            assert scene.data() == {"user": "Ada", "written": str(number)}


class TestForgers:
    @pytest.mark.parametrize("forger", FORGERS)
    @pytest.mark.parametrize("place", ["https", pytest.param("loopback", marks=again)])
    def test_nothing_they_send_passes_not_even_with_a_stolen_token(self, stage, place, forger):
        scene = stage(place)
        scene.log_in("Ada")
        stolen = scene.token()
        origin = getattr(scene, forger)

        bare = scene.write(FORM, origin)
        assert (bare.status, bare.rejection) == (403, "csrf_site"), bare
        # Lax withholds it from another site. A sibling domain is the same site.
        assert ("session=" in bare.cookie) == (forger == "sibling"), bare
        for way in (FORM, FRAMED_FORM, FETCH, QUIET_FORM, QUIET_FETCH, SANDBOXED_FORM):
            signed = scene.write(way, origin, csrf_token=stolen)
            assert (signed.status, signed.rejection) == (403, "csrf_site"), (way, signed)

        assert scene.data() == {"user": "Ada"}

    @pytest.mark.parametrize("forger", FORGERS)
    def test_on_plain_http_they_fail_by_their_origin_and_if_they_hide_it_for_want_of_a_token(self, stage, forger):
        scene = stage("plain")
        scene.log_in("Ada")
        stolen = scene.token()
        origin = getattr(scene, forger)

        for way in (FORM, FRAMED_FORM, FETCH):
            signed = scene.write(way, origin, csrf_token=stolen)
            assert (signed.status, signed.rejection, signed.site) == (403, "csrf_origin", None), (way, signed)
        for way in (QUIET_FORM, QUIET_FETCH, SANDBOXED_FORM):
            bare = scene.write(way, origin)
            assert (bare.status, bare.site) == (403, None), (way, bare)

        assert scene.data() == {"user": "Ada"}

    def test_a_cookie_that_goes_to_other_sites_does_not_help_them(self, stage):
        scene = stage("https", cookie_handler=CookieHandler("session", same_site="none", secure=True))
        scene.log_in("Ada")
        stolen = scene.token()

        seen = scene.write(FORM, scene.foreign, csrf_token=stolen)

        assert "session=" in seen.cookie
        assert (seen.status, seen.rejection) == (403, "csrf_site")
        # With the cookie it is refused; Firefox keeps it from sockets of other sites.
        assert scene.connect(scene.foreign) in ("refused", "hello None")
        assert scene.data() == {"user": "Ada"}

    @pytest.mark.parametrize("place", ["https", "plain"])
    def test_nobody_is_logged_in_by_their_form(self, stage, place):
        scene = stage(place)

        for origin in (scene.sibling, scene.foreign):
            seen = scene.write(FORM, origin, path="/log-in", name="Mallory")
            assert seen.status == 403, seen

        assert scene.data() == {}

    @pytest.mark.parametrize("place", ["https", "plain"])
    def test_an_exempt_endpoint_does_not_replace_the_log_in_whose_cookie_was_withheld(self, stage, place):
        scene = stage(place)
        scene.log_in("Ada")

        seen = scene.write(FORM, scene.foreign, path="/exempt")

        assert "session=" not in seen.cookie
        assert scene.data() == {"user": "Ada"}
        assert scene.write(FORM, scene.shop, path="/exempt").status == 200
        assert scene.data() == {"user": "Ada", "written": "written"}


class TestServiceWorkers:
    """A worker of the shop's own answers for forms of other sites too: they are navigations to its scope."""

    @pytest.mark.parametrize(
        "place, way", [("https", "through"), ("https", "option"), pytest.param("loopback", "through", marks=again)]
    )
    def test_a_forged_form_fails_and_an_own_one_needs_a_token(self, stage, place, way):
        scene = stage(place, configured=True)
        scene.log_in("Ada")
        scene.install(way)

        for origin in (scene.sibling, scene.foreign, scene.shop):
            bare = scene.write(FORM, origin)
            assert (bare.status, bare.dest) == (403, "empty"), (origin, bare)
        assert scene.data() == {"user": "Ada"}
        assert scene.write(FORM, scene.shop, csrf_token=scene.token()).status == 200
        assert scene.data() == {"user": "Ada", "written": "written"}
        assert scene.write(FETCH, scene.shop, "fetched").status == 200
        assert scene.data() == {"user": "Ada", "written": "fetched"}

    def test_what_one_makes_its_own_comes_with_the_shops_origin(self, stage):
        scene = stage("https", configured=True)
        scene.log_in("Ada")
        scene.install("option")

        for origin in (scene.sibling, scene.foreign):
            seen = scene.write(FORM, origin)
            assert (seen.origin, seen.site, seen.mode) == (scene.shop, "same-origin", "same-origin"), seen
            assert (seen.status, seen.rejection) == (403, "csrf_token_missing")
        assert scene.data() == {"user": "Ada"}

    def test_only_strict_mode_holds_against_one_that_makes_requests_anew(self, stage):
        layered, strict = stage("https"), stage("https", csrf=CSRF("strict"))
        for scene in (layered, strict):
            scene.visitor.goto(f"{scene.shop}/")
            token = scene.visitor.read("/token")
            scene.visitor.send("/log-in", {"name": "Ada", "csrf_token": token})
            scene.install("anew")

        # To the server this is the application's own fetch.
        passed = layered.write(FORM, layered.sibling)
        assert (passed.status, passed.site, passed.mode) == (200, "same-origin", "cors")
        refused = strict.write(FORM, strict.sibling)
        assert (refused.status, refused.rejection) == (403, "csrf_token_missing")
        assert strict.data() == {"user": "Ada"}
        assert strict.write(FORM, strict.shop, csrf_token=strict.token()).status == 200


class TestCookieJar:
    def test_one_overflowed_by_a_sibling_domain_cannot_take_over_a_log_in(self, stage, browser):
        scene = stage("https", configured=True)
        with browser.visitor() as mallory:
            scene.log_in("Mallory", mallory)
        attackers = scene.town.last("/state").cookie.partition("session=")[2]
        assert attackers
        planted = [
            f"{name}={attackers}; Domain=example.localhost; Path={path}; Secure"
            for name in ("session", "__Host-session", "=__Host-session", "\u2000__Host-session", "\xa0__Host-session")
            for path in ("/", "/state")
        ]
        filler = [f"filler{number}=1; Domain=example.localhost; Path=/; Secure" for number in range(250)]

        def attack() -> None:
            scene.visitor.goto(f"{scene.sibling}/")
            scene.visitor.set_cookies([*planted, *filler, *planted])

        scene.log_in("Ada")
        attack()

        assert scene.data().get("user") in (None, "Ada")
        came = scene.town.last("/state").cookie
        assert came.count("filler") > 100
        assert f"session={attackers}" in came
        scene.log_in("Ada")
        attack()
        assert scene.data().get("user") in (None, "Ada")


class TestWebSockets:
    @pytest.mark.parametrize("place", ["https", "plain"])
    def test_a_siblings_is_refused_and_another_sites_is_nobodys(self, stage, place):
        scene = stage(place)
        scene.log_in("Ada")

        assert scene.connect(scene.shop) == "hello Ada"
        assert scene.connect(scene.sibling) == "refused"
        # Without the cookie, which Lax withholds.
        assert scene.connect(scene.foreign) == "hello None"
