"""A visitor for each test: one page of one browser, for another page is another process."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page


@pytest.fixture(scope="session")
def browser(chromium: Browser) -> Browser:
    """The one that visitors have: a file may have them in others too."""
    return chromium


@pytest.fixture(scope="session")
def kept_page(chromium: Browser) -> Iterator[Page]:
    context = chromium.new_context()
    yield context.new_page()
    context.close()


@pytest.fixture
def page(kept_page: Page) -> Iterator[Page]:
    """A page of a visitor who has no cookies and no other page."""
    kept_page.context.clear_cookies()
    yield kept_page
    kept_page.unroute_all()
    kept_page.context.unroute_all()
    for other in kept_page.context.pages:
        if other != kept_page:
            other.close()
    # What it loads or listens to ends here, before its server does.
    kept_page.goto("about:blank")


@pytest.fixture
def context(page: Page) -> BrowserContext:
    """Where the visitor's cookies are, and more pages of theirs."""
    return page.context
