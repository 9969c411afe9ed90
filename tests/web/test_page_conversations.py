"""Conversations: found, renamed, deleted, exported and imported, long ones, and one left while it is answered."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from page_parts import GREEDY, png, send, settled, until

if TYPE_CHECKING:
    from playwright.sync_api import Page


def test_search_rename_delete(page: "Page") -> None:
    send(page, "hello there")
    page.click("#new-chat")
    send(page, "some markdown, please")
    assert page.locator("#conversations li").count() == 2
    page.fill("#search", "divisor")
    until(page, "document.querySelectorAll('#conversations li').length === 1")
    assert "divisor" in page.inner_text("#conversations .found")
    page.fill("#search", "")
    until(page, "document.querySelectorAll('#conversations li').length === 2")
    page.hover("#conversations li:nth-child(2)")
    page.click("#conversations li:nth-child(2) [aria-label^='Rename']")
    page.fill("#dialog-input", "Greetings 问候")
    page.press("#dialog-input", "Enter")
    page.wait_for_selector("#conversations >> text=Greetings 问候")
    page.hover("#conversations li:nth-child(1)")
    page.click("#conversations li:nth-child(1) [aria-label^='Delete']")
    page.click("dialog >> text=Cancel")
    assert page.locator("#conversations li").count() == 2
    page.hover("#conversations li:has-text('markdown')")
    page.click("#conversations li:has-text('markdown') [aria-label^='Delete']")
    page.click("dialog .danger")
    until(page, "document.querySelectorAll('#conversations li').length === 1")
    assert page.locator("article").count() == 0


def test_export_and_import_are_one_another(page: "Page", open_page: "Callable[..., Page]", tmp_path: Path) -> None:
    send(page, "six times seven")
    page.wait_for_selector("text=The result is 42.")
    settled(page)
    page.click("article.assistant:last-child [aria-label='Answer again']")
    settled(page)
    file = _export(page, tmp_path / "first.json")
    other = open_page(init=GREEDY)
    other.set_input_files("#import-file", file)
    other.wait_for_selector("#conversations li")
    assert _conversations(_export(other, tmp_path / "second.json")) == _conversations(file)
    other.click("#conversations a")
    assert other.locator("article.assistant:last-child .branches").text_content() == "2/2"
    other.set_input_files("#import-file", file)
    until(other, "document.querySelectorAll('#conversations li').length === 2")


def _export(page: "Page", path: Path) -> Path:
    with page.expect_download() as download:
        page.click("#export")
    download.value.save_as(path)
    return path


def _conversations(path: Path) -> list[dict[str, Any]]:
    data = json.loads(path.read_text(encoding="utf-8"))
    keys = ("id", "parent", "role", "content", "finish")
    return [
        {
            "id": each["id"],
            "chosen": each["chosen"],
            "messages": [{k: m.get(k) or None for k in keys} for m in each["messages"]],
        }
        for each in data["conversations"]
    ]


def test_leaving_an_answer_that_is_being_written_keeps_conversations_apart(page: "Page", tmp_path: Path) -> None:
    send(page, "a long one", wait=False)
    until(page, "document.querySelector('article.assistant .text')?.textContent.includes('word20')")
    page.click("#new-chat")
    send(page, "hello")
    until(page, "document.querySelectorAll('#conversations li').length === 2")
    hello, long = _conversations(_export(page, tmp_path / "both.json"))
    assert [each["content"] for each in hello["messages"]] == ["hello", "Hello! How can I help you today?"]
    question, answer = long["messages"]
    assert (question["content"], answer["finish"]) == ("a long one", "stopped")
    assert answer["content"].startswith("word0 word1 ")
    page.hover("#conversations li:nth-child(1)")
    page.fill("#compose", "a long one")
    page.press("#compose", "Enter")
    until(page, "document.querySelector('article:last-child .text')?.textContent.includes('word20')")
    page.click("#conversations li:nth-child(1) [aria-label^='Delete']")
    page.click("dialog .danger")
    until(page, "document.querySelectorAll('#conversations li').length === 1")
    assert len(_conversations(_export(page, tmp_path / "one.json"))) == 1


def test_a_file_that_is_no_export_changes_nothing(page: "Page") -> None:
    bad = {
        "format": "aquila-conversations",
        "conversations": [{"id": "a", "title": "b", "messages": [{"id": "x", "parent": "y"}]}],
    }
    for text, reason in (("{", "JSON"), ("[]", "format"), (json.dumps(bad), "conversations[0].messages[0].parent")):
        page.evaluate("document.getElementById('toast').hidden = true")
        page.set_input_files(
            "#import-file", {"name": "x.json", "mimeType": "application/json", "buffer": text.encode()}
        )
        page.wait_for_selector("#toast:not([hidden])")
        assert reason in page.inner_text("#toast")
    assert page.locator("#conversations li").count() == 0


def test_an_import_cannot_bring_in_scripts_or_beacons(page: "Page") -> None:
    evil = {"src": "https://evil.example/x.png", "caption": "<img src=x onerror=window.hacked=1>"}
    good = {
        "src": "data:image/png;base64," + base64.b64encode(png()).decode(),
        "caption": "<svg onload=window.hacked=2>",
    }
    call = {
        "id": "c",
        "name": "<b>x",
        "arguments": "{",
        "state": "done",
        "result": {"content": "", "images": [evil, good]},
    }
    nodes = [
        {
            "id": "u",
            "parent": None,
            "role": "user",
            "content": "<script>window.hacked=3</script>",
            "files": [{"name": "x", "image": "https://evil.example/y"}],
        },
        {"id": "a", "parent": "u", "role": "assistant", "content": "[x](javascript:hacked=4)", "calls": [call]},
    ]
    data = {
        "format": "aquila-conversations",
        "version": 1,
        "conversations": [{"id": "i", "title": "<img src=x onerror=window.hacked=5>", "messages": nodes}],
    }
    page.set_input_files(
        "#import-file", {"name": "x.json", "mimeType": "application/json", "buffer": json.dumps(data).encode()}
    )
    page.click("#conversations a")
    page.wait_for_selector(".tool-card img")
    assert page.locator("article img").count() == 1
    assert page.evaluate("window.hacked") is None


def test_a_long_conversation_opens_at_once(page: "Page", record_property: Callable[[str, object], None]) -> None:
    """200 messages, 1 MB: what is not near is plain text until it comes near."""
    paragraph = (
        "Some **bold** words about `code` and 中文。" * 20
        + "\n\n```python\ndef f(x):\n    return x + 1\n```\n\n- one\n- two\n\n"
    )
    content = (paragraph * 12)[:9800]
    nodes = [
        {
            "id": f"n{i}",
            "parent": f"n{i - 1}" if i else None,
            "role": "assistant" if i % 2 else "user",
            "content": content if i % 2 else content[:400],
        }
        for i in range(200)
    ]
    assert sum(len(node["content"].encode()) for node in nodes) > 1_000_000
    data = {
        "format": "aquila-conversations",
        "version": 1,
        "conversations": [{"id": "big", "title": "big", "messages": nodes}],
    }
    page.set_input_files(
        "#import-file", {"name": "x.json", "mimeType": "application/json", "buffer": json.dumps(data).encode()}
    )
    page.wait_for_selector("#conversations a")
    took = page.evaluate("""async () => {
        const began = performance.now();
        document.querySelector("#conversations a").click();
        while (document.querySelectorAll("article").length < 200) await new Promise(requestAnimationFrame);
        await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
        return performance.now() - began;
    }""")
    record_property("opened_ms", round(took))
    assert page.locator("article .text.raw").count() > 100, "most of it waits until it comes near"
    page.wait_for_selector("article:last-child .text:not(.raw) .hl-keyword")
    rest = "(({ scrollHeight, scrollTop, clientHeight }) => scrollHeight - scrollTop - clientHeight)"
    until(page, f"{rest}(document.getElementById('scroller')) < 50")
    page.evaluate("document.getElementById('scroller').scrollTop = 0")
    page.wait_for_selector("article:nth-child(2) .text:not(.raw) .hl-keyword")
