"""People at the demo shop, in Chromium: served as `scripts/demo` serves it, by uvicorn in processes of its own."""

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Response, StorageState, expect

from examples.demo.devices import device_of
from examples.demo.settings import place_of
from examples.demo.shop import create_shop
from tests import servers
from tests.parts import ALL
from tests.patience import PATIENCE, wait_until

ROOT = Path(__file__).parents[2]
PASSWORD = "oolong"

expect.set_options(timeout=PATIENCE * 1000)


class Demo(NamedTuple):
    shop: str
    partner: str
    sibling: str


@contextlib.contextmanager
def served(*options: str) -> Iterator[Demo]:
    port, partner_port = servers.free_port(), servers.free_port()
    ports = ["--port", str(port), "--partner-port", str(partner_port)]
    # A group of its own, so that its workers end with it.
    process = subprocess.Popen(
        [sys.executable, "-m", "examples.demo", *ports, *options], cwd=ROOT, start_new_session=True
    )
    try:
        wait_until(lambda: process.poll() is not None or (answers(port) and answers(partner_port)))
        assert process.poll() is None, "the demo ended at once"
        yield Demo(f"http://127.0.0.1:{port}", f"http://localhost:{partner_port}", f"http://127.0.0.1:{partner_port}")
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


@pytest.fixture(scope="module")
def demo() -> Iterator[Demo]:
    with served() as demo:
        yield demo


def log_in(page: Page, demo: Demo, name: str = "Ada", *, keep: bool = False) -> None:
    page.goto(f"{demo.shop}/log-in")
    page.fill("#name", name)
    page.fill("#password", PASSWORD)
    page.set_checked("[name=keep]", keep)
    page.click("main button")
    expect(page.locator("#user")).to_have_text(name)


def elsewhere(browser: Browser, demo: Demo, name: str) -> Page:
    """Log in on another device, and leave it at the page of devices."""
    page = browser.new_context().new_page()
    log_in(page, demo, name)
    page.goto(f"{demo.shop}/devices")
    return page


def wish_for(page: Page, wish: str) -> Response:
    page.fill("#wish", wish)
    with page.expect_response("**/api/wishes") as answered:
        page.click("text=Wish for it")
    return answered.value


def put_into_cart(page: Page, demo: Demo, tea: str) -> None:
    page.goto(f"{demo.shop}/teas/{tea}")
    page.click("text=Put into the cart")
    expect(page.locator("h1")).to_have_text("Your cart")


def fill_in_address(page: Page, demo: Demo) -> None:
    page.goto(f"{demo.shop}/checkout/address")
    page.fill("#name", "Ada")
    page.fill("#street", "Mill Lane 3")
    page.fill("#town", "Cambridge")
    page.click("text=On to the delivery")
    expect(page.locator("h1")).to_have_text("How shall it come?")


def choose_delivery(page: Page) -> None:
    page.check("text=By bicycle")
    page.click("text=On to the last step")
    expect(page.locator("h1")).to_have_text("Is all as you wish?")


def order(page: Page) -> str:
    page.click("text=Order it")
    expect(page.locator("h1")).to_contain_text("Thank you")
    return page.inner_text("#order")


def cookie(context: BrowserContext) -> str | None:
    return next((cookie["value"] for cookie in context.cookies() if cookie["name"] == "kettle"), None)


def lasting(context: BrowserContext) -> StorageState:
    """What a browser has kept when it is opened again: a cookie without a date ends with it."""
    state = context.storage_state()
    return {**state, "cookies": [cookie for cookie in state["cookies"] if cookie["expires"] != -1]}


def count(page: Page, demo: Demo) -> str:
    page.goto(demo.shop)
    return page.inner_text("#cart-count")


class TestVisit:
    def test_looking_around_makes_no_session(self, demo, context, page):
        page.goto(demo.shop)
        page.goto(f"{demo.shop}/cart")
        page.goto(f"{demo.shop}/forgery")

        assert cookie(context) is None
        expect(page.locator("#store")).to_contain_text("the memory of this one process")

    def test_a_form_founds_one_session_under_a_cookie_that_scripts_do_not_see(self, demo, context, page):
        page.goto(f"{demo.shop}/teas/sencha")
        founded = cookie(context)
        page.reload()

        assert founded is not None
        assert cookie(context) == founded
        (kept,) = context.cookies()
        assert (kept["httpOnly"], kept["sameSite"], kept["path"]) == (True, "Lax", "/")
        assert page.evaluate("document.cookie") == ""

    def test_a_page_shows_a_digest_and_never_the_cookie(self, demo, context, page):
        log_in(page, demo)
        secret = cookie(context)

        assert secret is not None
        assert secret not in page.content()


class TestLogIn:
    def test_it_changes_the_cookie_and_keeps_the_cart(self, demo, context, page):
        put_into_cart(page, demo, "oolong")
        before, digest = cookie(context), page.inner_text("#digest")

        log_in(page, demo)

        assert cookie(context) not in (None, before)
        expect(page.locator("#before")).to_have_text(digest)
        expect(page.locator("#now")).not_to_have_text(digest)
        expect(page.locator("#cart-count")).to_have_text("1")

    def test_a_wrong_password_is_told_of_once(self, demo, page):
        page.goto(f"{demo.shop}/log-in")
        page.fill("#name", "Ada")
        page.fill("#password", "guess")
        page.click("main button")

        expect(page.locator("#password-error")).to_have_text("That is not the password.")
        expect(page.locator("#name")).to_have_value("Ada")
        page.reload()
        expect(page.locator("#password")).to_be_visible()
        expect(page.locator(".error")).to_have_count(0)

    def test_logging_out_ends_the_session_for_every_holder_of_its_cookie(self, demo, browser, context, page):
        log_in(page, demo)
        holder = browser.new_context(storage_state=context.storage_state())
        ended = cookie(context)

        page.click("text=Log out")

        expect(page.locator(".notice")).to_contain_text("You are logged out")
        assert cookie(context) not in (None, ended)
        other = holder.new_page()
        other.goto(demo.shop)
        expect(other.locator("#user")).to_have_count(0)
        expect(other.locator("text=Log in")).to_be_visible()
        page.reload()
        expect(page.locator(".notice")).to_have_count(0)
        holder.close()

    def test_unlocking_renews_the_cookie_of_the_same_session(self, demo, context, page):
        log_in(page, demo)
        before = cookie(context)

        page.fill("#password", PASSWORD)
        page.click("text=Unlock")

        expect(page.locator("#secret")).to_be_visible()
        assert cookie(context) not in (None, before)
        expect(page.locator("#user")).to_have_text("Ada")

    def test_kept_it_outlives_the_browser(self, demo, browser, context, page):
        log_in(page, demo, keep=True)
        restarted = browser.new_context(storage_state=lasting(context))
        again = restarted.new_page()
        again.goto(demo.shop)
        expect(again.locator("#user")).to_have_text("Ada")
        (kept,) = context.cookies()
        assert kept["expires"] == pytest.approx(time.time() + 30 * 24 * 60 * 60, abs=60)
        restarted.close()

    def test_not_kept_it_ends_with_the_browser(self, demo, context, page):
        log_in(page, demo)

        assert lasting(context)["cookies"] == []


class TestDevices:
    def test_they_are_listed_as_their_owner_knows_them(self, demo, browser, page):
        phone = browser.new_context(user_agent="Mozilla/5.0 (Android 16; Mobile; rv:150.0) Gecko/150.0 Firefox/150.0")
        log_in(phone.new_page(), demo, "Emmy")
        log_in(page, demo, "Emmy")

        page.click("main a.button")

        devices = page.locator("#devices li")
        # The oldest is listed first.
        expect(devices.locator("strong")).to_have_text(["Firefox on Android", "Chrome on Linux"])
        expect(devices.nth(0)).to_contain_text(", last seen")
        expect(devices.nth(1)).to_contain_text("this device")
        expect(devices.nth(1).locator("button")).to_have_count(0)
        phone.close()

    def test_one_other_can_be_logged_out_and_learns_of_it_at_once(self, demo, browser, page):
        others = [elsewhere(browser, demo, "Joan") for _ in range(2)]
        log_in(page, demo, "Joan")
        page.goto(f"{demo.shop}/devices")
        expect(page.locator("#devices li")).to_have_count(3)

        page.locator("text=Log out there").first.click()

        expect(page.locator(".notice").first).to_have_text("That device is logged out.")
        expect(page.locator("#devices li")).to_have_count(2)
        expect(others[0].locator("#ended")).to_be_visible()
        for other, stays in zip(others, (False, True), strict=True):
            other.goto(demo.shop)
            expect(other.locator("#user")).to_have_count(int(stays))
            other.context.close()

    def test_all_others_can_be_logged_out(self, demo, browser, page):
        other = elsewhere(browser, demo, "Grace")
        log_in(page, demo, "Grace")
        page.goto(f"{demo.shop}/devices")

        page.click("text=Log out all others")

        expect(page.locator(".notice").first).to_have_text("Logged out on 1 other device.")
        expect(page.locator("#devices li")).to_have_count(1)
        other.goto(demo.shop)
        expect(other.locator("text=Log in")).to_be_visible()
        other.context.close()

    def test_all_can_be_logged_out_this_one_too(self, demo, browser, context, page):
        other = elsewhere(browser, demo, "Hedy")
        log_in(page, demo, "Hedy")
        ended = cookie(context)
        page.goto(f"{demo.shop}/devices")

        page.click("text=Log out everywhere")

        expect(page.locator(".notice")).to_contain_text("And on this one. Good-bye!")
        expect(page.locator("text=Log in")).to_be_visible()
        assert cookie(context) != ended
        other.goto(demo.shop)
        expect(other.locator("text=Log in")).to_be_visible()
        other.context.close()

    def test_a_log_in_of_long_ago_does_not_suffice_without_the_password(self, serve, browser, page):
        now = time.time()
        demo = Demo(serve(create_shop(clock=lambda: now), ws="wsproto").url, "", "")
        other = elsewhere(browser, demo, "Ada")
        log_in(page, demo)
        now += 301

        page.goto(f"{demo.shop}/devices")
        page.click("text=Log out all others")
        expect(page.locator("h1")).to_have_text("Is it you?")
        page.fill("#password", "guess")
        page.click("text=Go on")
        expect(page.locator("#password-error")).to_have_text("That is not the password.")
        other.reload()
        expect(other.locator("#user")).to_have_text("Ada")

        page.fill("#password", PASSWORD)
        page.click("text=Go on")

        expect(page.locator(".notice").first).to_have_text("Logged out on 1 other device.")
        other.reload()
        expect(other.locator("text=Log in").first).to_be_visible()
        other.context.close()


class TestCheckOut:
    def test_a_person_buys_some_tea(self, demo, page):
        page.goto(demo.shop)
        page.click("text=Breakfast Assam")
        page.click("text=Put into the cart")
        page.fill("[name=number]", "3")
        page.click("text=Change")
        expect(page.locator("#total")).to_have_text("€ 25.20")
        page.click("text=To the check-out")
        expect(page.locator("[aria-current=step]")).to_have_text("Address")
        fill_in_address(page, demo)
        choose_delivery(page)
        expect(page.locator("#total")).to_have_text("€ 31.20")

        number = order(page)

        expect(page.locator("#total")).to_have_text("€ 31.20")
        expect(page.locator("#cart-count")).to_have_text("0")
        page.reload()
        expect(page.locator("#order")).to_have_text(number)

    def test_what_was_wrong_is_shown_once(self, demo, page):
        page.goto(f"{demo.shop}/checkout/address")
        page.fill("#name", "Ada")
        page.click("text=On to the delivery")

        expect(page.locator(".error")).to_have_text(["Please tell us the street.", "Please tell us the town."])
        expect(page.locator("#name")).to_have_value("Ada")
        page.reload()
        expect(page.locator("#name")).to_have_value("")
        expect(page.locator(".error")).to_have_count(0)

    def test_going_back_finds_each_step_as_it_was_left(self, demo, page):
        put_into_cart(page, demo, "sencha")
        fill_in_address(page, demo)
        choose_delivery(page)

        page.go_back()
        expect(page.locator("[value=bicycle]")).to_be_checked()
        page.go_back()
        expect(page.locator("#town")).to_have_value("Cambridge")
        page.fill("#town", "Ely")
        page.click("text=On to the delivery")

        expect(page.locator("legend")).to_contain_text("Ely")
        expect(page.locator("[value=bicycle]")).to_be_checked()

    def test_starting_again_keeps_the_log_in_and_the_forms_of_other_tabs(self, demo, context, page):
        log_in(page, demo)
        put_into_cart(page, demo, "sencha")
        fill_in_address(page, demo)
        kept = cookie(context)
        other = context.new_page()
        other.goto(f"{demo.shop}/teas/assam")

        page.click("text=start again")

        expect(page.locator("#town")).to_have_value("")
        expect(page.locator("#user")).to_have_text("Ada")
        assert cookie(context) == kept
        other.click("text=Put into the cart")
        expect(other.locator("#cart-count")).to_have_text("2")

    def test_an_order_confirmed_in_two_tabs_is_placed_once(self, demo, context, page):
        put_into_cart(page, demo, "sencha")
        fill_in_address(page, demo)
        choose_delivery(page)
        other = context.new_page()
        other.goto(f"{demo.shop}/checkout/confirm")

        assert order(page) == order(other)


class TestTwoTabs:
    def test_what_both_put_into_the_cart_is_there(self, demo, context, page):
        other = context.new_page()
        page.goto(f"{demo.shop}/teas/sencha")
        other.goto(f"{demo.shop}/teas/assam")
        page.goto(f"{demo.shop}/teas/oolong")

        # Both at once: neither waits for the other's answer.
        for tab in (page, other):
            tab.evaluate("document.querySelector('main form button').click()")

        expect(other.locator("h1")).to_have_text("Your cart")
        expect(page.locator("h1")).to_have_text("Your cart")
        page.goto(f"{demo.shop}/cart")
        expect(page.locator("#cart tbody tr")).to_have_count(2)

    def test_a_form_shown_first_is_still_good_last(self, demo, context, page):
        page.goto(f"{demo.shop}/teas/sencha")
        other = context.new_page()
        for tea in ("assam", "oolong", "puerh"):
            put_into_cart(other, demo, tea)

        page.click("text=Put into the cart")

        expect(page.locator("#cart-count")).to_have_text("4")

    def test_an_order_form_older_than_the_log_in_is_refused_and_said_to_be_so(self, demo, context, page):
        put_into_cart(page, demo, "sencha")
        fill_in_address(page, demo)
        choose_delivery(page)
        other = context.new_page()
        log_in(other, demo)

        page.click("text=Order it")

        expect(page.locator("p").first).to_contain_text("The form is from before you logged in")
        expect(page.locator("small")).to_have_text("csrf_stale")
        assert count(page, demo) == "1"
        expect(page.locator("#user")).to_have_text("Ada")


class TestOnePage:
    def test_each_call_is_signed_with_the_token_of_the_page(self, demo, page):
        page.goto(f"{demo.shop}/wishes")
        token = page.get_attribute("meta[name=csrf-token]", "content")
        for wish in ("Lapsang", "White peony", "Kukicha"):
            answer = wish_for(page, wish)
            assert (answer.status, answer.request.headers["x-csrf-token"]) == (200, token)
            expect(page.locator("#wishes")).to_contain_text(wish)

        page.click("[aria-label='Remove White peony']")

        expect(page.locator("#wishes span")).to_have_text(["Lapsang", "Kukicha"])
        page.reload()
        expect(page.locator("#wishes span")).to_have_text(["Lapsang", "Kukicha"])

    def test_a_page_from_before_the_log_in_goes_on_with_a_fresh_token(self, demo, context, page):
        page.goto(f"{demo.shop}/wishes")
        log_in(context.new_page(), demo)

        refused = wish_for(page, "Lapsang")

        assert (refused.status, refused.headers["csrf-rejection"]) == (403, "csrf_stale")
        expect(page.locator("#wishes span")).to_have_text(["Lapsang"])

    def test_a_call_without_a_token_changes_nothing(self, demo, page):
        page.goto(f"{demo.shop}/wishes")

        status = page.evaluate(
            """async () => {
                document.querySelector("meta[name=csrf-token]").remove();
                return (await fetch("/api/wishes", {
                    method: "POST", headers: {"Content-Type": "application/json"}, body: '{"text": "Free tea"}'
                })).status;
            }"""
        )

        assert status == 403
        page.reload()
        expect(page.locator("#wishes li")).to_have_count(0)


class TestOtherSites:
    def test_a_visit_by_a_link_keeps_the_log_in_and_its_referral_counts_once(self, demo, context, page):
        log_in(page, demo)
        before = cookie(context)

        page.goto(demo.partner)
        page.click("#shop")

        expect(page.locator(".notice")).to_contain_text("The Slow Cup sends you")
        expect(page.locator("#user")).to_have_text("Ada")
        assert cookie(context) == before
        assert page.url == f"{demo.shop}/"
        for reward in (1, 0):
            put_into_cart(page, demo, "puerh")
            fill_in_address(page, demo)
            choose_delivery(page)
            order(page)
            expect(page.locator("#referral")).to_have_count(reward)
            expect(page.locator("#total")).to_have_text("€ 25.80" if reward else "€ 28.00")


class TestForgery:
    """Ada is logged in, and has a packet of sencha in the cart."""

    @pytest.fixture(scope="class")
    @classmethod
    def ada(cls, demo, browser):
        context = browser.new_context()
        page = context.new_page()
        put_into_cart(page, demo, "sencha")
        log_in(page, demo)
        page.goto(f"{demo.shop}/forgery")
        yield page
        context.close()

    @pytest.mark.parametrize("name, code, came", [
        ("form", "csrf_site", False),
        ("call", "csrf_site", False),
        ("log-in", "csrf_site", False),
        ("link", "csrf_site", True),
        ("hidden-elsewhere", "csrf_site", False),
        ("stolen", "csrf_site", True),
        ("log-out", "csrf_site", True),
        ("devices", "csrf_site", True),
        ("socket", "csrf_origin", True),
        ("hidden", "csrf_token_missing", True),
        ("foreign", "csrf_token_invalid", True),
    ])  # fmt: skip
    def test_an_attack_changes_nothing_and_its_verdict_is_shown_beside_it(self, demo, ada, name, code, came):
        before = cookie(ada.context)

        verdict = run(ada, name)

        expect(verdict.locator("strong")).to_have_text(f"Refused: {code}")
        expect(verdict).to_contain_text("your cookie came with it" if came else "your cookie did not come")
        expect(ada.locator(f"#{name} .now")).to_have_text("You are Ada, with 1 in the cart.")
        # Nor does the refusal take the log-in away.
        assert cookie(ada.context) == before

    def test_a_call_that_takes_leave_is_not_sent(self, demo, ada):
        verdict = run(ada, "json")

        expect(verdict).to_contain_text("so the call itself never came")
        expect(verdict).to_have_attribute("data-status", "405")

    def test_the_page_that_attacks_learns_nothing(self, demo, ada):
        for name, learnt in (("call", "shows this page no answer"), ("json", "did not let"), ("socket", "did not let")):
            ada.click(f"#{name} .run")
            outcome = ada.frame_locator(f"[name=stage-{name}]").locator("#outcome[data-done]")
            outcome.wait_for()
            assert learnt in outcome.inner_text()

    def test_what_is_the_shops_own_passes_with_a_token_and_a_stale_one_is_mended(self, demo, browser):
        context = browser.new_context()
        page = context.new_page()
        log_in(page, demo, "Grace")
        page.goto(f"{demo.shop}/forgery")

        expect(run(page, "signed").locator("strong")).to_have_text("Let through")
        expect(page.locator("#signed .now")).to_have_text("You are Grace, with 1 in the cart.")
        expect(run(page, "stale").locator("strong")).to_have_text(["Refused: csrf_stale", "Let through"])
        page.goto(f"{demo.shop}/wishes")
        expect(page.locator("#wishes span")).to_have_text("A tea from before the log-in")
        context.close()

    def test_an_address_that_buys_works_on_the_shops_own_page(self, demo, page):
        put_into_cart(page, demo, "sencha")

        page.click("text=one more")

        expect(page.locator("[name=number]")).to_have_value("2")

    def test_a_refused_form_shows_the_code_alone(self, demo, page):
        log_in(page, demo)
        page.goto(demo.partner)

        page.click("text=You have won")

        expect(page.locator("small")).to_have_text("csrf_site")
        assert count(page, demo) == "0"


def run(page: Page, attack: str) -> Locator:
    """Open the page that attacks; return the verdict of this time."""
    times = f"[...document.querySelectorAll('#{attack} time')].map((time) => time.dateTime).join()"
    before = page.evaluate(times)
    page.click(f"#{attack} .run")
    page.wait_for_function(f"(before) => {times} !== before", arg=before)
    for tab in page.context.pages:
        # Behind another tab a page is slow.
        if tab != page:
            tab.close()
    return page.locator(f"#{attack} .verdict")


def test_all_but_the_wishes_work_without_scripts(demo, browser):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    log_in(page, demo)
    put_into_cart(page, demo, "rooibos")
    fill_in_address(page, demo)
    choose_delivery(page)
    order(page)
    page.goto(f"{demo.shop}/wishes")
    expect(page.locator("noscript p")).to_be_visible()
    page.goto(f"{demo.shop}/forgery")
    page.click("#stolen .run")
    page.frame_locator("[name=stage-stolen]").locator("button").click()
    expect(page.frame_locator("[name=stage-stolen]").locator("small")).to_have_text("csrf_site")
    page.goto(f"{demo.shop}/forgery")
    expect(page.locator("#stolen strong")).to_have_text("Refused: csrf_site")
    page.click("text=Log out")
    expect(page.locator(".notice")).to_contain_text("You are logged out")
    context.close()


class TestProcesses:
    @pytest.mark.parametrize("kind", ["file", "redis", "postgresql+asyncpg"] if ALL else ["redis"])
    def test_a_visitor_hops_between_two_processes(self, kind, request, tmp_path, page):
        store = f"file:{tmp_path}/sessions"
        if kind != "file":
            database = kind.partition("+")[0]
            store = request.getfixturevalue(f"{database}_server").url_for(kind)
        with served("--workers", "2", "--store", store) as demo:
            log_in(page, demo)
            seen = set()
            for number in range(1, 101):
                put_into_cart(page, demo, "assam")
                expect(page.locator("#cart-count")).to_have_text(str(min(number, 20)))
                expect(page.locator("#user")).to_have_text("Ada")
                seen.add(page.inner_text("#process"))
                if len(seen) == 2:
                    break
            page.goto("about:blank")
        assert len(seen) == 2

    def test_the_memory_of_one_is_refused_to_two(self):
        told = subprocess.run(
            [sys.executable, "-m", "examples.demo", "--workers", "2"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

        assert told.returncode == 2
        assert "the memory store is one process's" in told.stderr


@pytest.mark.parametrize("option", ["--port", "--partner-port"])
def test_a_port_that_is_taken_is_told_of_before_anything_is_served(option):
    with socket.create_server(("127.0.0.1", servers.free_port())) as taken:
        port = taken.getsockname()[1]
        ports = {"--port": str(servers.free_port()), option: str(port)}
        told = subprocess.run(
            [sys.executable, "-m", "examples.demo", *itertools.chain(*ports.items())],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    assert (told.returncode, told.stdout) == (2, "")
    assert f"{option}: nothing can be served on port {port}" in told.stderr


@pytest.mark.parametrize(
    "store, shown",
    [
        ("memory:", "memory:"),
        ("file:/var/lib/shop", "file:/var/lib/shop"),
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("redis://:secret@cache/0", "redis://cache/0"),
        ("redis://cache/0?password=secret", "redis://cache/0"),
        ("redis://cache/0?password=secr@t", "redis://…"),
        ("postgresql+asyncpg://shop:sec/re?t@db/shop", "postgresql+asyncpg://…"),
        ("postgresql+asyncpg://shop:sec/r@t@db/shop", "postgresql+asyncpg://db/shop"),
    ],
)
def test_a_store_is_shown_without_its_password(store, shown):
    assert place_of(store) == shown


@pytest.mark.parametrize(
    "user_agent, words",
    [
        ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Firefox on Linux"),
        ("Mozilla/5.0 (Windows NT 10.0; Win64) Chrome/150.0.0.0 Safari/537.36 Edg/150.0.0.0", "Edge on Windows"),
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 26_0 like Mac OS X) Version/26.0 Safari/604.1", "Safari on an iPhone"),
        ("curl/8.14.1", "A browser unknown to us"),
        ("", "A browser unknown to us"),
    ],
)
def test_a_device_is_said_in_words(user_agent, words):
    assert device_of(user_agent) == words
