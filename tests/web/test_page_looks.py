"""Accessibility by axe-core in every state of the page, and pictures of it in `tests/web/screenshots` to look at."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from page_parts import GREEDY, png, send, until

if TYPE_CHECKING:
    from playwright.sync_api import Page

HERE = Path(__file__).parent
AXE = HERE / "node_modules" / "axe-core" / "axe.min.js"
SHOTS = HERE / "screenshots"
LOOKS = [
    (language, theme, screen)
    for language in ("zh-CN", "en-US")
    for theme in ("light", "dark")
    for screen in ("desktop", "mobile")
]
SCREENS = {"desktop": {"width": 1280, "height": 860}, "mobile": {"width": 390, "height": 844}}


def violations(page: "Page") -> list[str]:
    """What axe finds wrong, every rule of WCAG 2.2 AA and of good practice."""
    if not AXE.exists():
        pytest.skip("axe-core is not there (npm --prefix tests/web install)")
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    return [
        f"{each['id']}: {node['target']} {node['failureSummary']}"
        for each in found["violations"]
        for node in each["nodes"]
    ]


@pytest.mark.parametrize(("language", "theme", "screen"), LOOKS)
def test_every_state_is_accessible(language: str, theme: str, screen: str, open_page: "Callable[..., Page]") -> None:
    page = open_page(
        init=GREEDY, locale=language, color_scheme=theme, viewport=SCREENS[screen], reduced_motion="reduce"
    )
    name = f"{language[:2]}-{theme}-{screen}"
    SHOTS.mkdir(exist_ok=True)

    def look(state: str) -> None:
        page.screenshot(path=SHOTS / f"{name}-{state}.png")
        assert violations(page) == [], state

    look("1-empty")
    send(page, "你好" if language == "zh-CN" else "hello")
    send(page, "some markdown, please")
    look("2-chat")
    send(page, "six times seven")
    page.wait_for_selector("text=The result is 42.")
    send(page, "add two and three")
    look("3-tools")
    send(page, "draw a bridge")
    look("4-error")
    page.click("#open-panel")
    page.click("[aria-controls='help-temperature']")
    look("5-settings")
    page.click(".panel-head button")
    page.click("[data-mode=infill]")
    page.fill("#play-prefix", "def add(a, b):\n")
    look("6-infill")
    page.click("[data-mode=complete]")
    page.fill("#play-prompt", "def add(a, b):\n")
    page.press("#play-prompt", "Control+Enter")
    page.wait_for_selector("#playground .stats")
    look("7-complete")


def test_the_film_strip(open_page: "Callable[..., Page]") -> None:
    page = open_page(init=GREEDY)
    page.set_input_files("#attach-file", {"name": "face.png", "mimeType": "image/png", "buffer": png()})
    page.wait_for_selector("#files img")
    send(page, "change the face")
    page.wait_for_selector(".film li:nth-child(2)", timeout=90_000)
    page.screenshot(path=SHOTS / "film.png")
    assert violations(page) == []


def test_the_list_on_a_small_screen(open_page: "Callable[..., Page]") -> None:
    page = open_page(init=GREEDY, viewport=SCREENS["mobile"], has_touch=True, is_mobile=True, reduced_motion="reduce")
    page.fill("#compose", "hello")
    page.tap("#send")
    page.wait_for_selector("article.assistant .stats")
    page.tap("#open-sidebar")
    until(page, "document.activeElement.id === 'search'")
    page.screenshot(path=SHOTS / "mobile-list.png")
    assert violations(page) == []
