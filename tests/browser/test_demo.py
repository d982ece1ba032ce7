"""People at the demo shop, in Chromium: served as `scripts/demo` serves it, by uvicorn in processes of its own."""

import contextlib
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
from playwright.sync_api import Browser, BrowserContext, Page, expect

from examples.demo.settings import place_of
from tests import servers

ROOT = Path(__file__).parents[2]
PASSWORD = "oolong"

expect.set_options(timeout=20_000)


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
        end = time.monotonic() + 60
        while not (answers(port) and answers(partner_port)):
            assert process.poll() is None, "the demo ended at once"
            assert time.monotonic() < end, "the demo did not start"
            time.sleep(0.05)
        yield Demo(f"http://127.0.0.1:{port}", f"http://localhost:{partner_port}", f"http://127.0.0.1:{partner_port}")
    finally:
        process.terminate()
        try:
            process.wait(20)
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


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context()
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext) -> Page:
    return context.new_page()


def log_in(page: Page, demo: Demo, name: str = "Ada") -> None:
    page.goto(f"{demo.shop}/log-in")
    page.fill("#name", name)
    page.fill("#password", PASSWORD)
    page.click("main button")
    expect(page.locator("#user")).to_have_text(name)


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


def count(page: Page, demo: Demo) -> str:
    page.goto(demo.shop)
    return page.inner_text("#cart-count")


class TestVisit:
    def test_looking_around_makes_no_session(self, demo, context, page):
        page.goto(demo.shop)
        page.goto(f"{demo.shop}/cart")
        page.goto(f"{demo.shop}/refused")

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

    def test_logging_out_everywhere_else_leaves_this_one(self, demo, browser, page):
        log_in(page, demo, "Grace")
        elsewhere = browser.new_context()
        other = elsewhere.new_page()
        log_in(other, demo, "Grace")
        expect(other.locator(".devices li")).to_have_count(2)

        page.goto(f"{demo.shop}/account")
        page.click("text=Log out everywhere else")

        expect(page.locator(".notice")).to_have_text("Logged out on 1 other device.")
        expect(page.locator(".devices li")).to_have_count(1)
        expect(page.locator(".devices li")).to_contain_text("this one")
        other.goto(demo.shop)
        expect(other.locator("text=Log in")).to_be_visible()
        elsewhere.close()

    def test_one_other_device_can_be_logged_out(self, demo, browser, page):
        others = [browser.new_context() for _ in range(2)]
        for context in others:
            log_in(context.new_page(), demo, "Joan")
        log_in(page, demo, "Joan")
        expect(page.locator(".devices li")).to_have_count(3)

        page.locator("text=Log out there").first.click()

        expect(page.locator(".devices li")).to_have_count(2)
        # The oldest is listed first.
        for context, stays in zip(others, (False, True), strict=True):
            context.pages[0].goto(demo.shop)
            expect(context.pages[0].locator("#user")).to_have_count(int(stays))
            context.close()


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

    def test_a_form_older_than_the_log_in_is_refused_and_said_to_be_so(self, demo, context, page):
        page.goto(f"{demo.shop}/teas/sencha")
        other = context.new_page()
        log_in(other, demo)

        page.click("text=Put into the cart")

        expect(page.locator("h1")).to_have_text("This form is older than your log-in")
        expect(page.locator("#user")).to_have_text("Ada")
        page.go_back()
        page.reload()
        page.click("text=Put into the cart")
        expect(page.locator("#cart-count")).to_have_text("1")


class TestOnePage:
    def test_each_call_is_signed_with_the_token_that_the_last_one_answered(self, demo, page):
        page.goto(f"{demo.shop}/wishes")
        given = page.get_attribute("meta[name=csrf-token]", "content")
        for wish in ("Lapsang", "White peony", "Kukicha"):
            page.fill("#wish", wish)
            with page.expect_response("**/api/wishes") as answered:
                page.click("text=Wish for it")
            assert answered.value.status == 200
            assert answered.value.request.headers["x-csrf-token"] == given
            following = answered.value.json()["csrf_token"]
            assert following not in (None, given)
            given = following
            expect(page.locator("#wishes")).to_contain_text(wish)

        page.click("[aria-label='Remove White peony']")

        expect(page.locator("#wishes span")).to_have_text(["Lapsang", "Kukicha"])
        page.reload()
        expect(page.locator("#wishes span")).to_have_text(["Lapsang", "Kukicha"])

    def test_a_call_without_a_token_changes_nothing(self, demo, page):
        page.goto(f"{demo.shop}/wishes")

        status = page.evaluate(
            """async () => (await fetch("/api/wishes", {
                method: "POST", headers: {"Content-Type": "application/json"}, body: '{"text": "Free tea"}'
            })).status"""
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

    @pytest.mark.parametrize("site, said", [("partner", "kept back by the browser"), ("sibling", "came with it")])
    def test_a_form_forged_by_another_origin_changes_nothing(self, demo, context, page, site, said):
        log_in(page, demo)
        put_into_cart(page, demo, "sencha")
        before = cookie(context)

        page.goto(f"{getattr(demo, site)}/prize")
        page.click("#form")

        expect(page.locator("h1")).to_have_text("This request was refused")
        expect(page.locator("#refusal")).to_contain_text("it has no CSRF token")
        expect(page.locator("#refusal")).to_contain_text(said)
        # Nor does the refusal take the log-in away.
        assert cookie(context) == before
        assert count(page, demo) == "1"
        expect(page.locator("#user")).to_have_text("Ada")

    @pytest.mark.parametrize("site, came", [("partner", "kept back"), ("sibling", "came")])
    def test_a_call_forged_by_another_origin_changes_nothing_and_learns_nothing(self, demo, context, page, site, came):
        log_in(page, demo)
        put_into_cart(page, demo, "sencha")
        before = cookie(context)

        page.goto(f"{getattr(demo, site)}/prize")
        page.click("#fetch")

        expect(page.locator("#outcome[data-done] li")).to_contain_text(["shows this page no answer", "stopped"])
        assert cookie(context) == before
        assert count(page, demo) == "1"
        page.goto(f"{demo.shop}/wishes")
        expect(page.locator("#wishes li")).to_have_count(0)
        page.goto(f"{demo.shop}/refused")
        expect(page.locator("#refusals tbody tr").first).to_contain_text("POST /cart/add")
        expect(page.locator("#refusals tbody tr").first).to_contain_text(came)


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
    page.click("text=Log out")
    expect(page.locator(".notice")).to_contain_text("You are logged out")
    context.close()


class TestProcesses:
    @pytest.mark.parametrize("kind", ["file", "redis", "postgresql+asyncpg"])
    def test_a_visitor_hops_between_two_processes(self, kind, request, tmp_path, browser):
        store = f"file:{tmp_path}/sessions"
        if kind != "file":
            database = kind.partition("+")[0]
            store = request.getfixturevalue(f"{database}_server").url_for(kind)
        with served("--workers", "2", "--store", store) as demo:
            context = browser.new_context()
            page = context.new_page()
            log_in(page, demo)
            seen = set()
            for number in range(1, 101):
                put_into_cart(page, demo, "assam")
                expect(page.locator("#cart-count")).to_have_text(str(min(number, 20)))
                expect(page.locator("#user")).to_have_text("Ada")
                seen.add(page.inner_text("#process"))
                if len(seen) == 2:
                    break
            context.close()
        assert len(seen) == 2

    def test_the_memory_of_one_is_refused_to_two(self):
        told = subprocess.run(
            [sys.executable, "-m", "examples.demo", "--workers", "2"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

        assert told.returncode == 2
        assert "the memory store is one process's" in told.stderr


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
