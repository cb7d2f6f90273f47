"""The chat page and the operator's page of a service that runs, in a real browser."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from devtools import BROWSER, Browser, Tab

from fedbank.serving.rollout.stages import Candidate, Gates, Stage, Tally, judge
from fedbank.serving.store.feedback import MAX_COMMENT
from fedbank_client.serving.problems import KINDS

pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome is installed")]
CHINESE = re.compile("[\u4e00-\u9fff]")
ENTRY = "document.querySelectorAll('.entry form').length === 2"
ANSWERED = "document.querySelectorAll('.feedback').length === {}"
HOSTILE = "<img src=/x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


@dataclass
class World:
    """The service's process, a browser, and every tab that was opened in it."""

    folder: Path
    address: str
    process: "subprocess.Popen[str]"
    browser: Browser
    tabs: list[Tab] = field(default_factory=list)

    def open(self, path: str = "/", **emulated: Any) -> Tab:
        """A page, before anybody has signed in."""
        tab = self.browser.open(self.address + path, **emulated)
        self.tabs.append(tab)
        tab.wait(ENTRY)
        return tab

    def enter(self, path: str = "/", **emulated: Any) -> Tab:
        """A page, after a click on the try; the operator's looks eight times as often, as nobody wants to wait."""
        tab = self.open(path, **emulated)
        tab.run("{ const later = setTimeout; window.setTimeout = (act, ms) => later(act, ms / 8); }")
        tab.click(".entry form button")
        tab.wait("document.querySelector('#entry').hidden")
        return tab

    def token(self, role: str) -> str:
        asked = {"role": role, "subject": "customer-1"}
        return str(httpx.post(f"{self.address}/v1/development/token", json=asked).json()["access_token"])

    def call(self, role: str, path: str, body: object = None) -> Any:
        """What the service says to a role, without a page."""
        headers = {"Authorization": f"Bearer {self.token(role)}"}
        method = "GET" if body is None else "POST"
        return httpx.request(method, self.address + path, headers=headers, json=body).raise_for_status().json()

    def adopt(self, release: str) -> None:
        """As ``client sync`` does, for all that the service can see."""
        (self.folder / "adopted.new").write_text(release)
        (self.folder / "adopted.new").replace(self.folder / "adopted")

    @contextmanager
    def model_down(self) -> Iterator[None]:
        (self.folder / "down").touch()
        yield
        (self.folder / "down").unlink()


@pytest.fixture
def world(running: World) -> Iterator[World]:
    """After every test: none of its pages asked anybody else, or broke its own policy."""
    yield running
    for tab in running.tabs:
        asked = {urlsplit(event["request"]["url"]) for event in tab.events("Network.requestWillBeSent")}
        assert {f"{url.scheme}://{url.netloc}" for url in asked} == {running.address}
        assert tab.events("Runtime.exceptionThrown") == [] and tab.events("Runtime.consoleAPICalled") == []
        assert [entry for entry in logged(tab) if entry["source"] != "network"] == []
        tab.close()
    running.tabs.clear()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("pages")
    (folder / "adopted").write_text("autumn-1")
    command = [sys.executable, str(Path(__file__).with_name("told_bank.py")), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        browser = Browser(folder)
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            assert address.startswith("http://127.0.0.1:"), "the service did not start"
            yield World(folder, address, process, browser)
        finally:
            browser.close()
            process.kill()


def logged(tab: Tab) -> list[dict[str, Any]]:
    return [event["entry"] for event in tab.events("Log.entryAdded")]


def ask(tab: Tab, question: str) -> None:
    tab.run("document.querySelector('#question').focus()")
    tab.type(question)
    tab.press("Enter", 13)


def answered(tab: Tab, question: str, number: int) -> str:
    """The text of the answer to ``question``, the conversation's ``number``th that came to its end."""
    ask(tab, question)
    tab.wait(ANSWERED.format(number))
    return str(tab.run("[...document.querySelectorAll('.answer .text')].at(-1).textContent"))


def test_an_answer_is_shown_while_it_comes_and_stops_when_told(world: World) -> None:
    tab = world.enter()
    ask(tab, "say it slowly")
    tab.wait("document.querySelector('.answer .text').textContent.includes('More. More.')")
    assert "AI-generated" in tab.text(".answer") and "artificial intelligence" in tab.text("#ai")
    assert world.call("operator", "/v1/operator/status")["engine"]["running"] == 1
    tab.click("#stop")
    tab.wait("document.querySelector('.answer .stopped')")
    until = time.monotonic() + 30
    while world.call("operator", "/v1/operator/status")["engine"]["running"]:  # until it sees that the reader has left
        assert time.monotonic() < until
    assert "More." in tab.text(".answer .text") and tab.run("document.querySelector('#stop').hidden")


def test_a_conversation_goes_on_until_a_new_one_or_its_end(world: World) -> None:
    tab = world.enter()
    assert answered(tab, "say one", 1) == "one [after 0]"
    assert answered(tab, "say two", 2) == "two [after 1]"
    facts = tab.text(".facts summary")
    assert re.fullmatch(r"Release autumn-1 · [\d.]+ m?s · \d+ tokens", facts), facts
    world.call("operator", "/v1/operator/erase", {"customer": "customer-1"})  # its sessions are gone
    assert answered(tab, "say three", 3) == "three [after 0]"
    assert "The conversation expired." in tab.text(".divide")
    tab.click("#anew")
    tab.wait(ANSWERED.format(0))
    assert answered(tab, "say four", 1) == "four [after 0]"


def test_markup_in_a_question_or_an_answer_is_text(world: World) -> None:
    tab = world.enter()
    title = tab.run("document.title")
    assert answered(tab, f"say {HOSTILE}", 1).startswith(HOSTILE)
    assert tab.run("document.querySelector('.question p').textContent") == f"say {HOSTILE}"
    ask(tab, f"say {HOSTILE} slowly")
    tab.wait("document.querySelectorAll('.answer .text')[1]?.textContent.includes('More.')")
    assert HOSTILE in tab.run("document.querySelectorAll('.answer .text')[1].textContent")
    assert tab.run("document.querySelectorAll('#log img, #log script').length") == 0
    assert tab.run("document.title") == title


def test_both_pages_speak_the_browsers_language_and_the_one_that_is_chosen(world: World) -> None:
    for path, chinese, english in (("/", "智能问询", "Inquiries"), ("/operator", "推理服务运营", "Serving operations")):
        tab = world.open(path, language="zh-CN")
        assert tab.text("h1") == chinese == tab.run("document.title")
        assert tab.run("document.documentElement.lang") == "zh-Hans" and not re.search("[a-z]{9}", tab.text("#entry"))
        tab.click("#language")
        assert tab.text("h1") == english == tab.run("document.title") and not CHINESE.search(tab.text("#entry"))
        tab.call("Page.reload")
        tab.wait(f"document.title === {json.dumps(english)}")
        assert tab.run("JSON.stringify({...localStorage})") == '{"fedbank.language":"en"}'
    tab = world.enter(language="zh-CN")
    answered(tab, "我的电话是 13800138000，请回电", 1)
    assert "个人信息" in tab.text(".notices") and re.search(r"模型版本 autumn-1 · .+ 个词元", tab.text(".facts"))
    tab.click("#language")
    assert "Personal data" in tab.text(".notices") and "tokens" in tab.text(".facts")
    assert tab.run("sessionStorage.length") == 0 and tab.run("document.cookie") == ""


def test_feedback_and_a_comment_reach_the_bank(world: World) -> None:
    before = world.call("operator", "/v1/operator/status")["feedback"]
    tab = world.enter()
    answered(tab, "say no", 1)
    tab.click(".feedback button:nth-of-type(2)")
    tab.wait("document.querySelector('.feedback form')")
    assert tab.run("document.querySelector('.feedback [aria-pressed=true]').textContent") == "No"
    assert tab.run("document.querySelector('.feedback input').maxLength") == MAX_COMMENT
    tab.click(".feedback input")
    tab.type("<b>That was not what I asked.</b>")
    tab.press("Enter", 13)
    tab.wait("document.querySelector('.feedback [role=status]').textContent.includes('comment noted')")
    after = world.call("operator", "/v1/operator/status")["feedback"]
    assert after["not_helpful"] == before["not_helpful"] + 1 and after["helpful"] == before["helpful"]
    listed = world.call("agent", "/v1/feedback?state=candidate")["feedback"]
    assert listed[-1]["comment"] == "<b>That was not what I asked.</b>" and listed[-1]["helpful"] is False


def test_what_goes_wrong_is_said_in_plain_words(world: World) -> None:
    tab = world.enter(language="zh-CN")
    with world.model_down():
        ask(tab, "say hello")
        tab.wait("document.querySelector('.answer .problem')")
    assert tab.text(".answer .problem") == "模型暂时没有应答，请在 7 秒后重试。"
    assert tab.run("document.querySelector('#question').value") == "say hello"
    tab.run("document.querySelector('#question').value = ''")
    ask(tab, "我的密码是 Abc12345，帮我登录")
    tab.wait("document.querySelectorAll('.answer .problem').length === 2")
    assert "Abc12345" not in tab.text("#log")
    assert "密码或验证码" in tab.run("[...document.querySelectorAll('.answer .problem')].at(-1).textContent")
    tab.click("#leave")
    tab.wait(ENTRY)
    tab.click(".token")
    tab.type("not.a.token")
    tab.press("Enter", 13)
    ask(tab, "say hello")
    tab.wait("document.querySelector('.entry .problem')?.textContent.includes('登录已失效')")
    assert tab.run("document.querySelectorAll('.answer').length") == 0


def test_the_operator_sees_a_canary_and_takes_it_back(world: World) -> None:
    customer, tab = world.enter(), world.enter("/operator")
    answered(customer, "say something", 1)
    tab.wait("document.querySelector('#answers rect')")
    assert tab.run("document.querySelector('#promote').disabled && document.querySelector('#rollback').disabled")
    world.adopt("autumn-2")
    tab.wait("document.querySelector('.candidate [aria-current]')?.textContent === 'Shadow'")
    assert "copies of 100% of the questions" in tab.text(".candidate") and "of 200 answers" in tab.text(".gates")
    tab.click("#promote")
    assert tab.text("#confirm-title") == "Promote autumn-2 to canary?"
    tab.click("#cancel")
    assert world.call("operator", "/v1/operator/status")["releases"]["candidate"]["stage"] == "shadow"
    tab.click("#promote")
    tab.click("#act")
    tab.wait("document.querySelector('.candidate [aria-current]')?.textContent === 'Canary'")
    assert tab.text("#result") == "autumn-2 is canary now." and "became canary" in tab.text("#events")
    answered(customer, "say more", 2)
    assert "autumn-2" in customer.run("[...document.querySelectorAll('.facts summary')].at(-1).textContent")
    tab.click("#rollback")
    assert "autumn-1 answers every conversation at once" in tab.text("#confirm-what")
    tab.click("#act")
    tab.wait("document.querySelector('#result').textContent.includes('autumn-2 is withdrawn')")
    assert tab.run("document.querySelector('.candidate')") is None
    assert "autumn-2 was given up and is not tried again by itself" in tab.text("#releases")
    assert "given up" in tab.text("#events tbody tr")
    assert world.call("operator", "/v1/operator/status")["releases"]["candidate"] is None


def test_a_dialogue_about_releases_that_changed_meanwhile_does_nothing(world: World) -> None:
    tab = world.enter("/operator")
    world.adopt("autumn-3")
    tab.wait("document.querySelector('.candidate .name')?.textContent === 'autumn-3'")
    tab.click("#promote")
    world.call("operator", "/v1/operator/rollback", {})
    tab.wait("!document.querySelector('#confirm').open")
    assert "nothing was done" in tab.text("#result")
    assert world.call("operator", "/v1/operator/status")["releases"]["candidate"] is None


def test_a_model_that_is_down_and_figures_that_are_old_are_seen_at_once(world: World) -> None:
    tab = world.enter("/operator")
    assert tab.text("#tiles .up") == "ready" and tab.text("#alarm") == ""
    with world.model_down():
        tab.wait("document.querySelector('#alarm').textContent === 'The engine cannot answer: told to be down'")
        assert tab.text("#tiles .bad") == "down"
    tab.wait("document.querySelector('#alarm').textContent === ''")
    world.process.send_signal(signal.SIGSTOP)
    try:
        tab.run("{ const now = Date.now; Date.now = () => now() + 6000; }")  # nobody wants to wait
        tab.wait("document.querySelector('#view').classList.contains('late')")
        assert re.search(r"does not answer: what is below is of \d\d:\d\d:\d\d", tab.text("#alarm"))
        assert re.fullmatch(r"last update \d+ s ago", tab.text("#age"))
    finally:
        world.process.send_signal(signal.SIGCONT)
    tab.wait("document.querySelector('#alarm').textContent === ''")


def test_a_token_without_the_right_does_not_open_the_operators_page(world: World) -> None:
    tab = world.open("/operator")
    tab.click(".token")
    tab.type(world.token("customer-channel"))
    tab.press("Enter", 13)
    tab.wait("document.querySelector('.entry .problem').textContent.includes('does not give the right')")
    assert tab.run("document.querySelector('#view').hidden")


def test_an_event_arrives_whole_wherever_the_network_cuts_it(world: World) -> None:
    stream = ': hello\r\nevent: delta\r\ndata: {"text":"挂失 🙂"}\r\n\r\n'
    stream += 'event: answered\ndata: {"answer":\ndata: "好"}\n\ndata: 7\n\n'
    script = f"""(async () => {{
        const {{events}} = await import('/pages/service.js'), bytes = new TextEncoder().encode({json.dumps(stream)});
        const read = async cuts => {{
            const pieces = cuts.map((cut, at) => bytes.slice(cut, cuts[at + 1] ?? bytes.length)), found = [];
            const body = new ReadableStream({{start(to) {{ pieces.forEach(one => to.enqueue(one)); to.close(); }}}});
            for await (const event of events(body)) found.push([event.name, event.data]);
            return JSON.stringify(found);
        }};
        const every = await Promise.all([...bytes.keys()].map(cut => read([0, cut])));
        return [...new Set([...every, await read([...bytes.keys()])])];
    }})()"""
    cut = (
        "import('/pages/service.js').then(m => m.events(new ReadableStream({start(to) { to.error(new TypeError()); }}))"
    )
    cut += ".next().catch(error => error.said()))"
    expected = [["delta", {"text": "挂失 🙂"}], ["answered", {"answer": "好"}], ["message", 7]]
    tab = world.open()
    assert [json.loads(one) for one in tab.run(script)] == [expected]
    assert "was cut" in tab.run(cut)


def test_every_problem_and_every_gate_has_chinese_words(world: World) -> None:
    tab = world.open(language="zh-CN")
    problems = [{"type": f"urn:fedbank:problem:{kind.name}", "status": kind.status} for kind in KINDS]
    script = "import('/pages/service.js').then(m => {}.map(one => new m.Problem(one, '9').said()))"
    said = dict(zip((kind.name for kind in KINDS), tab.run(script.format(json.dumps(problems))), strict=True))
    assert [name for name, text in said.items() if not CHINESE.search(text) or "{" in text] == []
    now = datetime.now(UTC)
    seen = Tally(300, 3, 50, 45, 3, 2, milliseconds={40: 300})
    lines = [
        *judge(Candidate("a", Stage.CANARY, 0.1, now - timedelta(days=9), seen, seen), Gates(), now).lines,
        *judge(Candidate("a", Stage.SHADOW, 0.1, now - timedelta(days=9)), Gates(), now).lines,
        "gates passed",
        "autumn-2 was adopted instead",
    ]
    script = "import('/pages/lines.js').then(m => {}.map(m.line))"
    told = tab.run(script.format(json.dumps([*lines, "; ".join(lines)])))
    assert [text for text in told if re.search(r"[a-z]{3}", text.replace("autumn", ""))] == []
    assert told[-1] == "；".join(told[:-1])


def test_both_pages_fit_a_telephone_and_can_be_read_by_everybody(world: World) -> None:
    for path in ("/", "/operator"):
        tab = world.enter(path, width=360, height=740)
        if path == "/":
            answered(tab, f"say {'long ' * 20}{'x' * 400}", 1)
        for dark in (False, True):
            tab.emulate(width=360, height=740, dark=dark)
            assert tab.run("document.documentElement.scrollWidth") <= 360
            assert low_contrast(tab) == []
        nodes = tab.call("Accessibility.getFullAXTree")["nodes"]
        told = [node for node in nodes if node.get("role", {}).get("value") in ("button", "textbox", "image")]
        assert told and [node for node in told if not node["name"]["value"]] == []


def low_contrast(tab: Tab) -> list[tuple[str, str, float]]:
    """Pairs of the page's colours whose contrast is below 4.5 (WCAG 2.2, 1.4.3)."""
    names = ("ink", "soft", "blue", "green", "amber", "red", "paper", "back", "tint", "red-tint", "on-blue")
    script = "(s => {}.map(n => s.getPropertyValue('--' + n).trim()))(getComputedStyle(document.documentElement))"
    colour = dict(zip(names, map(luminance, tab.run(script.format(json.dumps(names)))), strict=True))
    pairs = [(text, ground) for text in ("ink", "soft") for ground in ("paper", "back")]
    pairs += [(text, "paper") for text in ("blue", "green", "amber", "red")]
    pairs += [("ink", "tint"), ("red", "red-tint"), ("on-blue", "blue")]
    found = [(one, other, contrast(colour[one], colour[other])) for one, other in pairs]
    return [pair for pair in found if pair[2] < 4.5]


def luminance(colour: str) -> float:
    """Of #rgb or #rrggbb (WCAG 2.2, relative luminance)."""
    digits = colour.lstrip("#")
    digits = digits if len(digits) == 6 else "".join(2 * digit for digit in digits)
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: float, other: float) -> float:
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)


def test_a_breach_of_the_pages_own_policy_is_heard(running: World) -> None:
    tab = running.browser.open(running.address)
    tab.run("document.body.setAttribute('style', 'color: red')")
    assert any(entry["source"] == "security" for entry in logged(tab)), logged(tab)
    assert not tab.run("fetch('http://127.0.0.1:9/').then(() => true, () => false)")
    assert any("connect-src" in entry["text"] for entry in logged(tab)), logged(tab)
    tab.close()
