"""A server process and a real Chromium for the tests of the page."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from page_parts import CHROMIUM, GREEDY, PageServer, Watch

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="session")
def chromium() -> "Iterator[Browser]":
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed (pip install playwright)"
    )
    if not Path(CHROMIUM).exists():
        pytest.skip(f"there is no {CHROMIUM} (apt-get install chromium fonts-noto-cjk)")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="session")
def server(folder: Path) -> Iterator[PageServer]:
    made = PageServer(folder).start()
    yield made
    made.kill()


@pytest.fixture
def own_server(folder: Path) -> Iterator[Callable[..., PageServer]]:
    """Servers of one test alone: `own_server("--key", "x")`."""
    made: list[PageServer] = []

    def start(*options: str) -> PageServer:
        made.append(PageServer(folder, *options).start())
        return made[-1]

    yield start
    for each in made:
        each.kill()


@pytest.fixture
def open_page(chromium: "Browser", server: PageServer) -> "Iterator[Callable[..., Page]]":
    """Opens the page in a browser of its own, and fails the test if it asked another host or complained."""
    contexts, watches = [], []

    def start(
        url: str | None = None, *, init: str = "", ready: bool = True, quiet: bool = True, **options: Any
    ) -> "Page":
        context = chromium.new_context(**{"locale": "en-US", "viewport": {"width": 1280, "height": 860}, **options})
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        if init:
            context.add_init_script(init)
        page = context.new_page()
        page.set_default_timeout(20_000)
        watch = Watch(url or server.url)
        watch.follow(page)
        contexts.append(context)
        watches.append((watch, quiet))
        page.goto(url or server.url)
        if ready:
            page.wait_for_selector("html[data-ready]")
        return page

    yield start
    for context in contexts:
        context.close()
    for watch, quiet in watches:
        assert watch.urls, "the page asked for nothing"
        assert watch.foreign == [], "the page asked other hosts"
        assert not quiet or watch.complaints == []


@pytest.fixture
def page(open_page: "Callable[..., Page]") -> "Page":
    """The page in English, greedy, with room for long answers."""
    return open_page(init=GREEDY)
