"""The page, driven in a real Chromium against a real server process: chat, branches, tools, keys, faults."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from page_parts import GREEDY, PageServer, answers, png, send, settled, until

if TYPE_CHECKING:
    from playwright.sync_api import Page


# ---- chat


def test_a_conversation_with_markdown_code_and_figures(page: "Page") -> None:
    send(page, "some markdown, please")
    text = page.locator("article.assistant .text")
    assert text.locator("strong").inner_text() == "bold"
    assert text.locator("h3").inner_text() == "Prime numbers"
    assert text.locator("td").all_inner_texts() == ["7", "yes", "9", "no"]
    assert text.locator("li input:checked").count() == 1
    assert text.locator("a").get_attribute("href") == "https://example.org/primes"
    assert text.locator(".hl-keyword").first.inner_text() == "def"
    assert "质数判断" in text.locator(".hl-string").first.inner_text()
    assert re.fullmatch(
        r"\d+ tokens · [\d,.]+ tokens/s · first after [\d.]+ s", page.inner_text("article.assistant .stats")
    )
    assert re.fullmatch(r"[\d,]+ of 8,192 tokens", page.inner_text("#gauge"))
    page.click(".copy-code")
    assert page.evaluate("navigator.clipboard.readText()").startswith("def is_prime(n: int)")
    page.click("article.assistant [aria-label='Copy']")
    assert page.evaluate("navigator.clipboard.readText()").startswith("当然。")


def test_what_is_streamed_is_what_a_reload_shows(page: "Page") -> None:
    """Rendered piece by piece, and rendered at once from the database."""
    send(page, "some markdown, please")
    streamed = page.locator("article.assistant .text").inner_html()
    page.reload()
    page.wait_for_selector("html[data-ready]")
    page.click("#conversations a")
    page.wait_for_selector("article.assistant .text h3")
    assert page.locator("article.assistant .text").inner_html() == streamed


def test_stop_and_continue(page: "Page") -> None:
    send(page, "a long one", wait=False)
    until(page, "document.querySelector('article.assistant .text')?.textContent.includes('word20')")
    page.keyboard.press("Escape")
    settled(page)
    half = answers(page)[0]
    assert "word1199" not in half
    assert "Stopped" in page.inner_text("article.assistant .bar")
    page.click("article.assistant >> text=Continue")
    settled(page)
    whole = answers(page)[0]
    assert whole.startswith(half.strip()[:200])
    assert len(whole) > len(half)
    words = whole.split()
    assert words == [f"word{i}" for i in range(len(words) - 1)] + words[-1:], "continued without a gap or a repeat"


def test_the_length_limit_and_continue(open_page: "Callable[..., Page]") -> None:
    page = open_page(init=GREEDY.replace("2000", "60"))
    send(page, "count")
    assert not answers(page)[0].endswith("end.")
    for _ in range(30):
        button = page.locator("article.assistant >> text=Continue")
        if not button.count():
            break
        button.click()
        settled(page)
    assert answers(page)[0].split() == ["one two three four five six seven eight nine ten " * 12 + "end."][0].split()


def test_answers_and_questions_have_versions(page: "Page") -> None:
    send(page, "hello")
    page.click("[aria-label='Answer again']")
    settled(page)
    assert page.locator("article.assistant .branches").text_content() == "2/2"
    page.click("article.user [aria-label='Edit']")
    page.fill(".edit-box", "the second version")
    page.press(".edit-box", "Enter")
    page.wait_for_selector("text=You changed the question.")
    settled(page)
    assert page.locator("article.user .branches").text_content() == "2/2"
    page.click("article.user [aria-label='Previous version']")
    assert answers(page) == ["Hello! How can I help you today?"]
    assert page.locator("article.assistant .branches").text_content() == "2/2", "the version that was shown last"
    page.reload()
    page.wait_for_selector("html[data-ready]")
    page.click("#conversations a")
    assert page.locator("article.user .branches").text_content() == "1/2", "the choice is kept"


def test_keys(page: "Page") -> None:
    page.fill("#compose", "two")
    page.press("#compose", "Shift+Enter")
    page.keyboard.type("lines: two lines")
    assert page.input_value("#compose") == "two\nlines: two lines"
    page.press("#compose", "Enter")
    settled(page)
    assert answers(page) == ["It has both lines."]
    page.press("#compose", "ArrowUp")
    assert page.input_value(".edit-box") == "two\nlines: two lines"
    page.keyboard.press("Escape")
    assert page.locator(".edit-box").count() == 0
    page.keyboard.press("Control+k")
    until(page, "document.activeElement.id === 'search'")
    page.keyboard.press("Control+Shift+O")
    until(page, "document.activeElement.id === 'compose'")
    assert page.locator("article").count() == 0


def test_enter_of_an_input_method_does_not_send(page: "Page") -> None:
    page.focus("#compose")
    keys = page.context.new_cdp_session(page)
    keys.send("Input.imeSetComposition", {"text": "ni hao", "selectionStart": 6, "selectionEnd": 6})
    event = {"type": "rawKeyDown", "key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 229}
    keys.send("Input.dispatchKeyEvent", event)
    assert page.locator("article").count() == 0
    keys.send("Input.insertText", {"text": "你好"})
    assert page.input_value("#compose") == "你好"
    page.press("#compose", "Enter")
    settled(page)
    assert answers(page) == ["你好！很高兴见到你。今天想聊点什么？🦅"]


def test_screen_readers_hear_the_answer(page: "Page") -> None:
    page.evaluate("""() => {
        const live = document.getElementById("live");
        window.heard = [];
        const observer = new MutationObserver((records) => {  // all that was said, however briefly
            for (const { addedNodes } of records) for (const node of addedNodes) window.heard.push(node.textContent);
        });
        observer.observe(live, { childList: true });
    }""")
    send(page, "some markdown, please")
    heard = page.evaluate("window.heard")
    assert heard[0] == "Answering"
    assert heard[-1] == "Answer complete"
    assert any("A number above 1" in each for each in heard)
    assert page.get_attribute("#live", "aria-live") == "polite"


# ---- what a model may say


def test_nothing_that_a_model_says_runs(page: "Page") -> None:
    send(page, "attack")
    for _ in range(2):
        page.wait_for_selector("article.assistant .text table")
        text = page.locator("article.assistant .text")
        assert text.locator("script, img, svg:not(.icon), iframe, math, template, style, object, form").count() == 0
        links = [each.get_attribute("href") for each in text.locator("a").all()]
        assert links
        assert all(link.startswith("https://") for link in links)
        names = page.evaluate("[...document.querySelectorAll('article *')].flatMap((each) => each.getAttributeNames())")
        assert [name for name in names if name.startswith("on")] == []
        assert page.evaluate("window.hacked") is None
        assert "<script>window.hacked = 1</script>" in text.inner_text()
        page.reload()
        page.wait_for_selector("html[data-ready]")
        page.click("#conversations a")


def test_the_policy_stops_what_the_page_does_not_do(open_page: "Callable[..., Page]", server: PageServer) -> None:
    """Even a script that got in could not write HTML, name a handler in text, or run text."""
    page = open_page(quiet=False)  # the browser reports what it refuses
    attempts = (
        "document.body.innerHTML = '<p>'",
        "document.body.setAttribute('onclick', 'window.hacked = 1')",
        "document.body.append(Object.assign(document.createElement('iframe'), { srcdoc: '<p>' }))",
        "trustedTypes.createPolicy('x', {})",
        "document.write('<p>')",
    )
    for attempt in attempts:
        refused = page.evaluate(f"() => {{ try {{ {attempt}; return '' }} catch (error) {{ return error.name }} }}")
        assert refused == "TypeError", attempt
    policy = page.request.get(server.url).headers["content-security-policy"]
    assert policy.startswith("default-src 'self'; img-src 'self' data: blob:;")
    assert "unsafe" not in policy


# ---- tools


def test_a_tool_without_risk_runs_and_the_model_goes_on(page: "Page") -> None:
    send(page, "what is six times seven?")
    page.wait_for_selector("text=The result is 42.")
    settled(page)
    card = page.locator(".tool-card")
    assert card.locator("code").first.inner_text() == "calculator"
    assert card.locator("dd").inner_text() == "6 * 7"
    assert card.locator(".tool-state").inner_text() == "done"
    assert card.locator(".result").inner_text() == "42"


def test_a_tool_with_risk_waits_for_consent(page: "Page") -> None:
    send(page, "add two and three")
    card = page.locator(".tool-card")
    assert card.locator(".tool-state").inner_text() == "waits for you"
    assert "network" in card.locator(".question").inner_text()
    page.click(".question .solid")
    page.wait_for_selector("text=Together they make 5.")
    settled(page)
    assert card.locator(".tool-state").inner_text() == "done"


def test_a_tool_can_be_declined(page: "Page") -> None:
    send(page, "add two and three")
    page.click(".question .plain")
    assert page.locator(".tool-card .tool-state").inner_text() == "not run"
    assert len(answers(page)) == 1


def test_an_image_tool_without_a_model_says_how_to_get_one(page: "Page") -> None:
    send(page, "draw a bridge")
    card = page.locator(".tool-card")
    assert card.locator("dd").inner_text() == "一座红色的桥，水彩"
    assert card.locator(".tool-state").inner_text() == "failed"
    assert "--image-model" in card.locator(".error-card").inner_text()
    assert card.locator("img").count() == 0


def test_an_unknown_tool_is_text_or_an_error_and_never_runs(page: "Page") -> None:
    send(page, "call a tool that is not there")
    assert page.locator(".tool-card.done").count() == 0


def test_instruct_face_shows_every_step(page: "Page", tmp_path: Path) -> None:
    page.set_input_files("#attach-file", {"name": "face.png", "mimeType": "image/png", "buffer": png()})
    page.wait_for_selector("#files img")
    send(page, "change the face")
    page.wait_for_selector(".tool-card .film li:nth-child(2)", timeout=90_000)
    film = page.locator(".film li")
    assert film.count() >= 2
    assert "Change the eye color to brown." in page.locator(".film").inner_text()
    assert "Make the skin appear pink." in film.last.inner_text()
    widths = page.evaluate("[...document.querySelectorAll('.film img')].map(i => i.naturalWidth)")
    assert all(width > 0 for width in widths)
    with page.expect_download() as download:
        film.last.locator("a[download]").click()
    kept = tmp_path / "kept.png"
    download.value.save_as(kept)
    assert kept.read_bytes()[:4] == b"\x89PNG"
    film.last.locator("text=Edit this picture").click()
    assert page.locator("#files img").count() == 1
    film.first.locator(".picture-button").click()
    assert page.locator("dialog[open] img").count() == 1
    page.keyboard.press("Escape")


# ---- files


def test_a_text_file_goes_along(page: "Page") -> None:
    page.set_input_files("#attach-file", {"name": "a.py", "mimeType": "text/x-python", "buffer": b"print('hi')\n"})
    page.wait_for_selector("#files .chip")
    with page.expect_request("**/v1/chat/completions") as sent:
        send(page, "what is in it?")
    assert sent.value.post_data_json["messages"][-1]["content"] == "a.py\n```py\nprint('hi')\n\n```\n\nwhat is in it?"
    assert page.inner_text("article.user .chip") == "a.py"


def test_a_file_that_is_no_text_is_refused(page: "Page") -> None:
    page.set_input_files("#attach-file", {"name": "a.bin", "mimeType": "application/x", "buffer": b"\xff\xfe\0"})
    page.wait_for_selector("#toast:not([hidden])")
    assert page.inner_text("#toast").startswith("a.bin: only text files")


# ---- settings


def test_sampling_has_the_defaults_and_explains_itself(open_page: "Callable[..., Page]") -> None:
    page = open_page()
    page.click("#open-panel")
    values = {name: page.input_value(f"#p-{name}") for name in ("temperature", "top_k", "top_p", "max_tokens")}
    assert values == {"temperature": "0.8", "top_k": "30", "top_p": "0.95", "max_tokens": "200"}
    for name in ("temperature", "top_k", "top_p", "max_tokens", "seed"):
        page.click(f"[aria-controls='help-{name}']")
        assert len(page.inner_text(f"#help-{name}")) > 30
    page.fill("#system", "Be brief.")
    page.fill("#p-temperature", "0")
    page.fill("#p-seed", "7")
    page.press("#p-seed", "Tab")
    with page.expect_request("**/v1/chat/completions") as sent:
        send(page, "hello")
    body = sent.value.post_data_json
    assert {key: body[key] for key in ("temperature", "top_k", "top_p", "max_tokens", "seed")} == {
        "temperature": 0, "top_k": 30, "top_p": 0.95, "max_tokens": 200, "seed": 7,
    }  # fmt: skip
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert body["model"] == "scripted"
    page.click("text=Defaults")
    assert page.input_value("#p-temperature") == "0.8"


def test_a_tool_that_is_turned_off_is_not_offered(page: "Page") -> None:
    page.click("#open-panel")
    page.click(".tool-list label:has-text('calculator')")
    with page.expect_request("**/v1/chat/completions") as sent:
        send(page, "hello")
    names = [tool["function"]["name"] for tool in sent.value.post_data_json["tools"]]
    assert "calculator" not in names
    assert "InstructFace" in names


# ---- complete and infill


def test_complete_goes_on_from_the_text(page: "Page") -> None:
    page.click("[data-mode=complete]")
    page.fill("#play-prompt", "def add(a, b):\n")
    page.press("#play-prompt", "Control+Enter")
    page.wait_for_selector("text=Accept")
    assert page.inner_text("#made").rstrip("\n") == "    return a + b"
    page.click("text=Accept")
    assert page.input_value("#play-prompt") == "def add(a, b):\n    return a + b\n"


def test_infill_says_clearly_when_the_model_cannot(page: "Page") -> None:
    page.click("[data-mode=infill]")
    assert "was not trained to fill gaps" in page.inner_text("#playground .note")
    page.fill("#play-prefix", "def add(a, b):\n")
    page.fill("#play-suffix", "print(add(1, 2))")
    with page.expect_request("**/v1/completions") as sent:
        page.click("#play-run")
    assert sent.value.post_data_json["suffix"] == "print(add(1, 2))"
    page.wait_for_selector("#playground .error-card")
    assert sent.value.response().status == 501


def test_infill_fills_the_gap(own_server: Callable[..., PageServer], open_page: "Callable[..., Page]") -> None:
    page = open_page(own_server("--no-tools", "--infill").url, init=GREEDY)
    page.click("[data-mode=infill]")
    assert page.locator("#playground .note").count() == 0
    page.fill("#play-prefix", "def add(a, b):\n")
    page.fill("#play-suffix", "\nprint(add(1, 2))")
    page.press("#play-suffix", "Control+Enter")
    page.wait_for_selector("text=Accept")
    assert page.inner_text("#made").strip() == "return a + b"
    page.click("text=Accept")
    assert page.input_value("#play-prefix").startswith("def add(a, b):\n    return a + b")


# ---- the server


def test_a_server_that_goes_away_and_comes_back(
    own_server: Callable[..., PageServer], open_page: "Callable[..., Page]"
) -> None:
    server = own_server("--no-tools")
    page = open_page(server.url, init=GREEDY)
    send(page, "hello")
    send(page, "a long one", wait=False)
    until(page, "[...document.querySelectorAll('article .text')].at(-1).textContent.includes('word20')")
    server.kill()
    page.wait_for_selector("#banner >> text=The server cannot be reached.")
    settled(page)
    assert "word20" in answers(page)[-1], "what was said stays"
    assert "cannot be reached" in page.inner_text("article:last-child .error-card")
    server.start()
    page.click("#banner >> text=Try now")
    page.wait_for_selector("#banner", state="hidden")
    page.click("article:last-child >> text=Try again")
    page.wait_for_selector("article:last-child >> text=word300")
    settled(page)
    assert page.locator("article:last-child .branches").text_content() == "2/2"


def test_a_server_with_a_key(own_server: Callable[..., PageServer], open_page: "Callable[..., Page]") -> None:
    server = own_server("--no-tools", "--key", "secret-key")
    page = open_page(server.url, init=GREEDY, ready=False)
    page.wait_for_selector("dialog[open]")
    page.fill("#dialog-input", "wrong")
    page.press("#dialog-input", "Enter")
    page.wait_for_selector("dialog[open] >> text=refused")
    page.fill("#dialog-input", "secret-key")
    page.click("dialog >> text=Connect")
    page.wait_for_selector("html[data-ready]")
    send(page, "hello")
    assert answers(page) == ["Hello! How can I help you today?"]
    assert page.evaluate("sessionStorage.getItem('aquila.key')") == "secret-key"
    assert "secret-key" not in page.evaluate("JSON.stringify(localStorage)")


# ---- languages and themes


def test_the_language_is_the_browsers_until_it_is_chosen(open_page: "Callable[..., Page]") -> None:
    page = open_page(locale="zh-CN")
    assert page.get_attribute("html", "lang") == "zh-CN"
    assert page.inner_text("[data-mode=infill]") == "填空"
    page.select_option("#language", "en")
    assert page.get_attribute("html", "lang") == "en"
    assert page.inner_text("[data-mode=infill]") == "Infill"
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert page.inner_text("[data-mode=infill]") == "Infill"


def test_themes(open_page: "Callable[..., Page]") -> None:
    page = open_page(color_scheme="dark")
    colour = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(colour)
    page.select_option("#theme", "light")
    light = page.evaluate(colour)
    assert light != dark
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert page.evaluate(colour) == light
    page.select_option("#theme", "auto")
    assert page.evaluate(colour) == dark


def test_a_small_screen(open_page: "Callable[..., Page]") -> None:
    page = open_page(init=GREEDY, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page.fill("#compose", "hello")
    page.tap("#send")
    settled(page)
    assert answers(page) == ["Hello! How can I help you today?"]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.tap("#open-sidebar")
    until(page, "document.activeElement.id === 'search'")
    assert page.evaluate("document.getElementById('main').inert")
    page.keyboard.press("Escape")
    assert not page.evaluate("document.getElementById('main').inert")
    page.tap("#open-panel")
    assert page.evaluate("document.getElementById('main').inert")
    page.keyboard.press("Escape")
    until(page, "document.activeElement.id === 'open-panel'")
