"""The page for people in a real, headless Chromium, on a real `parity serve` whose candidate was damaged as it served.

What is asked of it: a stranger finds which budget broke, since when, on which stratum, and one failing pair; with a
keyboard and on a phone; and what clients say stays text. Screenshots of what was seen are left in pytest's own folder.
"""

from __future__ import annotations

import asyncio
import base64
import shutil
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from selenium.common.exceptions import NoAlertPresentException
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support import expected_conditions
from selenium.webdriver.support.ui import WebDriverWait

from backends.scripted.traffic import TOOLS
from proxy.demo.engines import Scripted, scripted
from proxy.demo.process import running
from proxy.demo.stage import SCRIPTED, SETTINGS
from proxy.monitor.page.script import REFRESH_MS
from tests.integration.control_rig import TOKEN, control_port

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="Chromium (Debian: chromium, chromium-driver) is not installed"
)

HEALTHY, PER_FAULT = 60, 60  # requests before any fault, and at least after each
MOST = 900  # requests by which each fault must have been found
MARKED = 24  # requests that hold markup, of which a third meets the fault
ELSEWHERE = "http://127.0.0.1:9/never"  # nobody listens there, and nobody may ask
MARKUP = f"</div><script>alert(1)</script><img src={ELSEWHERE} onerror=alert(2)><b>SECRET-4711</b>"
PHONE, DESK = 360, 1280


@dataclass(slots=True)
class Served:
    """The proxy and its engines while they run, on a loop of their own."""

    relay: str
    control: str
    engines: Scripted
    log: Path
    loop: asyncio.AbstractEventLoop
    planted: dict[str, float]

    def send(self, bodies: Callable[[], Iterator[dict[str, Any]]], number: int) -> None:
        asyncio.run_coroutine_threadsafe(_sent(self.relay, bodies(), number), self.loop).result(300)

    def pairs(self, **query: str) -> Any:
        return httpx.get(f"{self.control}/pairs", params={"limit": "500", "mismatched": "true", **query}).json()


@asynccontextmanager
async def _serving(config: Path, log: Path) -> AsyncIterator[dict[str, str]]:
    """`parity serve` at its most talkative, its whole log in a file; yields its urls by role."""
    serve = (sys.executable, "-m", "proxy.cli", "serve", "--config", str(config), "--log-level", "debug")
    async with running("sh", "-c", 'exec "$@" 2> "$0"', str(log), *serve) as program:
        urls: dict[str, str] = {}
        async with asyncio.timeout(30):
            while not {"relay", "control"} <= urls.keys():
                told = await program.told()
                assert told is not None, log.read_text()[-2000:]  # noqa: ASYNC240  the test is over
                if told.get("event") == "listening":
                    urls[told["role"]] = f"http://{told['host']}:{told['port']}"
        yield urls


async def _sent(relay: str, bodies: Iterator[dict[str, Any]], number: int) -> None:
    """Sends the next bodies, four at once, and reads every answer."""
    left = iter(range(number))

    async def worker(client: httpx.AsyncClient) -> None:
        for _ in left:
            body = next(bodies)
            path = "/v1/completions" if "prompt" in body else "/v1/chat/completions"
            assert (await client.post(path, json=body)).status_code == 200

    async with httpx.AsyncClient(base_url=relay, timeout=60) as client:
        await asyncio.gather(*(worker(client) for _ in range(4)))


def marked() -> Iterator[dict[str, Any]]:
    """Requests whose words are markup; the scripted model puts them into a tool's arguments."""
    for number in count(1):
        asked = f'Create a support ticket "{number} {MARKUP}" with low priority'
        yield {"model": "m", "temperature": 0, "tools": list(TOOLS), "messages": [{"role": "user", "content": asked}]}


@asynccontextmanager
async def _staged(folder: Path, loop: asyncio.AbstractEventLoop) -> AsyncIterator[Served]:
    async with scripted() as engines:
        config = folder / "parity.toml"
        text = SETTINGS.format(
            candidate=engines.candidate_url, reference=engines.reference_url, folder=folder, ledger=folder / "l.sqlite"
        )
        apart = SCRIPTED.replace("[budgets.copy_recall_loss]", '[budgets.copy_recall_loss]\nstrata = ["length"]')
        config.write_text(text + apart)
        async with _serving(config, folder / "log") as urls:
            served = Served(urls["relay"], urls["control"], engines, folder / "log", loop, {})
            bodies = engines.bodies()
            await _sent(served.relay, bodies, HEALTHY)
            sent = HEALTHY
            await _settled(served.control, sent)
            for fault, budget in (("tool_calls", "tool_call_mismatch"), ("recall", "copy_recall_loss")):
                served.planted[budget] = time.time()
                await engines.damage(fault)
                for _ in range(MOST // PER_FAULT):
                    await _sent(served.relay, bodies, PER_FAULT)
                    sent += PER_FAULT
                    if (await _settled(served.control, sent))["budgets"][budget]["verdict"] == "fail":
                        break
                else:
                    raise AssertionError(f"{budget} does not fail after {MOST} requests")
            await _sent(served.relay, marked(), MARKED)
            await _settled(served.control, sent + MARKED)
            yield served


async def _settled(control: str, sent: int) -> dict[str, Any]:
    """What the gate says once every request has its row: a monitor that is behind would lose some."""
    async with asyncio.timeout(120), httpx.AsyncClient(base_url=control, timeout=30) as client:
        while True:
            gate: dict[str, Any] = (await client.get("/gate")).json()
            if gate["coverage"]["sampled"] >= sent:
                return gate
            await asyncio.sleep(0.1)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    staged = _staged(tmp_path_factory.mktemp("page"), loop)
    try:
        yield asyncio.run_coroutine_threadsafe(staged.__aenter__(), loop).result(600)
    finally:
        asyncio.run_coroutine_threadsafe(staged.__aexit__(None, None, None), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = CHROMIUM or ""
    # No sandbox: CI runs as root, which Chromium's has no way to confine; the pages are our own.
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    with Chrome(options=options, service=Service(DRIVER)) as driver:
        driver.execute_cdp_cmd("Network.enable", {})
        yield driver


def sized(browser: Chrome, width: int, *, dark: bool = False) -> None:
    """A window of that width (under 500: a phone's), in light or dark."""
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    screen = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)


@pytest.fixture
def page(browser: Chrome, served: Served) -> Chrome:
    """The overview at a desk, freshly loaded."""
    sized(browser, DESK)
    browser.get(f"{served.control}/")
    return browser


def one(page: Chrome | WebElement, selector: str) -> WebElement:
    return page.find_element(By.CSS_SELECTOR, selector)


def every(page: Chrome | WebElement, selector: str) -> list[WebElement]:
    return page.find_elements(By.CSS_SELECTOR, selector)


def pressed(page: Chrome, key: str) -> None:
    """Presses a key where the focus is, and waits until another page is there."""
    before = page.current_url
    page.switch_to.active_element.send_keys(key)
    WebDriverWait(page, 10).until(lambda p: p.current_url != before)


def network(page: Chrome) -> list[dict[str, Any]]:
    """What the browser says of its network since the last call."""
    return [orjson.loads(entry["message"])["message"] for entry in page.get_log("performance")]


def requested(page: Chrome) -> list[str]:
    """The addresses that were asked for since the last call."""
    return [m["params"]["request"]["url"] for m in network(page) if m["method"] == "Network.requestWillBeSent"]


def test_a_stranger_finds_the_budget_since_when_the_stratum_and_a_failing_pair(page: Chrome, served: Served) -> None:
    assert one(page, "h1").text.startswith("Fail since 20")
    broken = {one(card, "h2 a").text: card for card in every(page, "#verdict .broken")}
    assert {"tool_call_mismatch", "copy_recall_loss"} <= set(broken)
    for budget, card in broken.items():
        answers = dict(zip([term.text for term in every(card, "dt")], every(card, "dd"), strict=True))
        assert set(answers) == {"How far", "Over since", "Where", "See it"}
        if budget not in served.planted:
            continue
        since = one(answers["Over since"], "time").get_attribute("datetime")
        assert since is not None
        at = datetime.fromisoformat(since).timestamp()
        assert served.planted[budget] - 1 <= at <= time.time(), "after its fault was planted, before now"
        assert "its limit is" in answers["How far"].text
        told = httpx.get(f"{served.control}/gate").json()["budgets"][budget]
        if told["strata"]:
            worst = max((s for s in told["strata"].items() if s[1]["verdict"] == "fail"), key=lambda s: s[1]["value"])
            assert f"prompts of {worst[0]} tokens" in answers["Where"].text
        else:
            assert "tools offered" in answers["Where"].text
    one(broken["tool_call_mismatch"], "a.act").click()
    assert "tool_call_mismatch" in one(page, "#pair").text
    changed = every(page, "#calls tr.changed, #calls tr.added, #calls tr.missing, #calls .del")
    assert changed, "the structural difference of the calls"
    id = page.current_url.split("/pairs/")[1].split("?")[0]
    told = httpx.get(f"{served.control}/pairs/{id}").json()
    scores = {score["name"]: score["value"] for score in told["scores"] if score["arm"] == "candidate"}
    assert scores["tool_call_mismatch"] > 0.05
    sides = [one(page, f"#replies section:nth-of-type({n}) pre").text for n in (1, 2)]
    assert sides[0] != sides[1]


def test_each_budget_has_its_picture_with_limit_and_noise_floor(page: Chrome) -> None:
    budgets = every(page, "#budgets article")
    names = [one(budget, "h3 a").text for budget in budgets]
    assert len(names) == 6
    assert set(names[:2]) == {"tool_call_mismatch", "copy_recall_loss"} or "needle_recall_loss" in names[:3]
    for budget in budgets:
        for picture in every(budget, "svg.chart"):
            points = one(picture, "polyline.seen").get_attribute("points")
            assert points is not None
            places = [tuple(map(float, point.split(","))) for point in points.split()]
            assert len(places) >= 2
            assert places == sorted(places, key=lambda place: place[0]), "time goes on to the right"
            assert all(0.0 <= x <= 360.0 and 0.0 <= y <= 168.0 for x, y in places)
            assert one(picture, "line.limit")
            assert one(picture, "polyline.floor")
            assert "against a limit of" in (picture.get_attribute("aria-label") or "")
    apart = every(one(page, "#budget-copy_recall_loss"), "figure")
    assert len(apart) >= 2, "one picture per stratum"
    assert "fail" in one(apart[0], "figcaption").text, "the worst stratum first"
    assert "Over its limit since" in apart[0].text
    assert "over since" in one(apart[0], "svg").text


def test_the_history_and_the_coverage_are_told_in_words(page: Chrome) -> None:
    history = one(page, "#history").text
    assert "rolled back, epoch 1: " in history
    assert history.index("rolled back") < history.index("1 began, inconclusive")
    assert "eligible" in one(page, "#coverage").text
    one(page, "#strata summary").click()
    assert "prompts of 0-512 tokens" in one(page, "#strata").text


def test_keys_and_links_step_through_the_pairs(page: Chrome, served: Served) -> None:
    listed = [pair["id"] for pair in served.pairs(score="tool_call_mismatch")]
    page.get(f"{served.control}/?score=tool_call_mismatch")
    shown = [link.text for link in every(page, "#pairs td a")]
    assert shown == listed[:20]
    every(page, "#pairs td a")[0].click()
    seen = [listed[0]]
    for key in ("j", Keys.ARROW_RIGHT, "j"):
        pressed(page, key)
        seen.append(page.current_url.split("/pairs/")[1].split("?")[0])
    assert seen == listed[:4]
    assert "4 of the latest 20 failing pairs over the limit of tool_call_mismatch" in one(page, ".reader").text
    pressed(page, "k")
    assert listed[2] in page.current_url
    pressed(page, "u")
    assert page.current_url == f"{served.control}/?score=tool_call_mismatch#pairs"
    page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        page.get(f"{served.control}/pairs/{listed[0]}?score=tool_call_mismatch&kind=live")
        one(page, "a[rel=next]").click()
        assert listed[1] in page.current_url
    finally:
        page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_the_button_pauses_the_mirror_and_resumes_it(page: Chrome, served: Served) -> None:
    for act, then in (("pause", "resume"), ("resume", "pause")):
        button = one(page, "#monitor button")
        assert button.text == f"{act} the mirror"
        button.click()
        WebDriverWait(page, 10).until(expected_conditions.staleness_of(button))
        assert one(page, "#monitor button").text == f"{then} the mirror"
        assert httpx.get(f"{served.control}/state").json()["paused"] == (act == "pause")


def test_behind_a_token_a_browser_opens_the_page_and_its_button_works(
    browser: Chrome, served: Served, tmp_path: Path
) -> None:
    """Chromium answers a challenge with the address's own password, as it would with one that a person types."""
    guarded = control_port(tmp_path, token=TOKEN)
    rig = asyncio.run_coroutine_threadsafe(guarded.__aenter__(), served.loop).result(30)
    try:
        browser.get(f"http://people:{TOKEN}@127.0.0.1:{rig.port}/")
        assert one(browser, "h1").text.startswith("Inconclusive")
        button = one(browser, "#monitor button")
        button.click()
        WebDriverWait(browser, 10).until(expected_conditions.staleness_of(button))
        assert rig.view.paused
        assert one(browser, "#monitor")
    finally:
        asyncio.run_coroutine_threadsafe(guarded.__aexit__(None, None, None), served.loop).result(30)


def test_the_list_is_filtered_by_budget_and_stratum(page: Chrome, served: Served) -> None:
    stratum = served.pairs(score="tool_call_mismatch")[0]["stratum"]
    one(page, "select[name=score] option[value=tool_call_mismatch]").click()
    one(page, f"select[name=stratum] option[value='{stratum}']").click()
    one(page, "#pairs form button").click()
    WebDriverWait(page, 10).until(lambda p: "stratum=" in p.current_url)
    shown = [link.text for link in every(page, "#pairs td a")]
    expected = [pair["id"] for pair in served.pairs(score="tool_call_mismatch") if pair["stratum"] == stratum]
    assert shown == expected[:20]
    assert one(page, "select[name=stratum] option:checked").get_attribute("value") == stratum


def test_a_lost_fact_is_drawn_where_it_stood(page: Chrome, served: Served) -> None:
    cards = {one(card, "h2 a").text: card for card in every(page, "#verdict .broken")}
    one(cards["copy_recall_loss"], "a.act").click()
    gone = every(page, "#recall svg .fact.gone")
    assert gone
    id = page.current_url.split("/pairs/")[1].split("?")[0]
    told = httpx.get(f"{served.control}/pairs/{id}").json()
    places = sorted(fact["place"] for fact in told["recall"]["facts"] if not fact["said"])
    drawn = sorted(float(mark.get_attribute("x") or -1) / 355.0 for mark in gone)
    assert drawn == pytest.approx(places, abs=0.01)
    lost = [fact["text"] for fact in told["recall"]["facts"] if not fact["said"]]
    assert all(text in one(page, "#recall").text for text in lost)
    assert told["stratum"].split("/")[0] in one(page, "#recall").text
    assert one(page, "#replies .here").text == "parts here"
    assert "The texts part at word" in one(page, "#parts").text


def test_a_planted_needle_is_drawn_where_it_was_planted(page: Chrome, served: Served) -> None:
    probe = next(pair for pair in served.pairs(score="needle_recall_loss") if pair["kind"] == "probe")
    page.get(f"{served.control}/pairs/{probe['id']}?kind=probe")
    told = httpx.get(f"{served.control}/pairs/{probe['id']}", params={"kind": "probe"}).json()
    scores = {score["name"]: score for score in told["scores"] if score["arm"] == "candidate"}
    depth = scores["needle_recall_loss"]["explanation"]["depth_ratio"]
    said = one(page, "#recall")
    assert "The planted needle stands" in said.text
    (mark,) = every(said, "svg .fact.gone")
    assert float(mark.get_attribute("x") or -1) / 355.0 == pytest.approx(depth, abs=0.05)
    assert "access code is" in one(said, "q").text
    assert "access code is" in (one(page, "#asked .said").get_attribute("textContent") or "")


def test_on_a_phone_nothing_scrolls_sideways_and_every_text_has_contrast(
    browser: Chrome, served: Served, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("screenshots")
    first = served.pairs(score="tool_call_mismatch")[0]["id"]
    lost = served.pairs(score="copy_recall_loss")[0]
    addresses = {
        "home": "/",
        "calls": f"/pairs/{first}?kind=live",
        "recall": f"/pairs/{lost['id']}?kind={lost['kind']}",
        "none": "/pairs/nowhere",
    }
    for name, path in addresses.items():
        for width in (PHONE, DESK):
            for dark in (False, True):
                sized(browser, width, dark=dark)
                browser.get(served.control + path)
                for details in every(browser, "details"):
                    browser.execute_script("arguments[0].open = true", details)
                wide = browser.execute_script("return document.documentElement.scrollWidth")
                assert wide <= width, f"{name} at {width}"
                assert browser.execute_script(_LOW_CONTRAST) == [], f"{name} at {width}, dark: {dark}"
                seen = base64.b64decode(browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"])
                (folder / f"{name}-{width}-{'dark' if dark else 'light'}.png").write_bytes(seen)


# WCAG 2.2, 1.4.3: 4.5 for text, 3 for large text (24 px, or 18.66 px bold).
_LOW_CONTRAST = """
const lum = c => { const [r,g,b] = c.map(v => (v/=255) <= .04045 ? v/12.92 : ((v+.055)/1.055)**2.4);
  return .2126*r + .7152*g + .0722*b };
const rgb = s => s.match(/[\\d.]+/g).map(Number);
const behind = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
  if (c.length < 4 || c[3] > 0) return c.slice(0, 3) } return [255, 255, 255] };
const low = [];
for (const e of document.querySelectorAll('body *')) {
  if (![...e.childNodes].some(n => n.nodeType == 3 && n.data.trim()) || !e.getClientRects().length) continue;
  if (e.closest('script')) continue;
  const s = getComputedStyle(e), ink = e.closest('svg') ? s.fill : s.color;
  const [a, b] = [lum(rgb(ink)), lum(behind(e.closest('svg') ? e.closest('svg').parentElement : e))];
  const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05), px = parseFloat(s.fontSize);
  const large = px >= 24 || (px >= 18.66 && s.fontWeight >= 700);
  if (ratio < (large ? 3 : 4.5)) low.push(`${e.tagName}.${e.getAttribute('class')} ${e.textContent} ${ratio}`)
}
return low
"""


def test_with_a_keyboard_alone(page: Chrome, served: Served) -> None:
    page.switch_to.active_element.send_keys(Keys.TAB)
    skip = page.switch_to.active_element
    assert skip.text == "skip to the content"
    assert skip.rect["x"] >= 0, "it is seen once it has the focus"
    skip.send_keys(Keys.ENTER)
    assert page.execute_script("return document.activeElement.id") == "main"
    page.switch_to.active_element.send_keys(Keys.TAB)
    assert page.execute_script("return document.activeElement.closest('#verdict') !== null"), "then the verdict"
    outline = page.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    kinds = ("header", "main", "nav")
    assert [len(every(page, kind)) for kind in kinds] == [1, 1, 1]
    page.get(f"{served.control}/pairs/{served.pairs()[0]['id']}")
    named = [nav.get_attribute("aria-label") for nav in every(page, "nav")]
    assert named == ["Views", "Pairs"]


def test_the_verdict_stays_fresh_and_the_place_on_the_page_is_kept(page: Chrome, served: Served) -> None:
    judged = _judged(page)
    one(page, "#strata summary").click()
    page.execute_script("window.here = 1; document.activeElement.blur(); window.scrollTo(0, 700)")
    served.send(served.engines.bodies, 8)
    WebDriverWait(page, 3 * REFRESH_MS / 1000).until(lambda p: _judged(p) > judged)
    assert page.execute_script("return window.here") == 1, "the page was not loaded anew"
    assert page.execute_script("return window.scrollY") == pytest.approx(700, abs=40)
    assert one(page, "#strata").get_attribute("open") is not None


def _judged(page: Chrome) -> int:
    """How many pairs the page says were judged."""
    (said,) = [span.text for span in every(page, "#verdict span.dim") if "pairs judged" in span.text]
    return int(said.split()[0].replace(",", ""))


def test_a_monitor_that_does_not_answer_is_said(page: Chrome) -> None:
    """An old verdict that looks fresh would be worse than none."""
    network_as = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    wait = WebDriverWait(page, 3 * REFRESH_MS / 1000)
    page.execute_cdp_cmd("Network.emulateNetworkConditions", {"offline": True, **network_as})
    try:
        wait.until(lambda p: one(p, "body").get_attribute("data-stale") is not None)
        told = page.execute_script("return getComputedStyle(document.body, '::before').content")
        assert "does not answer" in told
    finally:
        page.execute_cdp_cmd("Network.emulateNetworkConditions", {"offline": False, **network_as})
    wait.until(lambda p: one(p, "body").get_attribute("data-stale") is None)


def test_what_clients_say_stays_text(page: Chrome, served: Served) -> None:
    requested(page)
    page.get_log("browser")
    found = [pair["id"] for pair in served.pairs(score="tool_call_mismatch") if _says_markup(served, pair["id"])]
    assert found, "none of the requests with markup met the fault"
    for path in (f"/pairs/{found[0]}", "/?every=true"):
        page.get(served.control + path)
        with pytest.raises(NoAlertPresentException):
            _ = page.switch_to.alert.text
        asked = requested(page)
        assert asked, "nothing was recorded"
        assert all(address.startswith(served.control) for address in asked), asked
        assert every(page, "main script, main img, main iframe, [onerror], [style]") == []
    page.get(f"{served.control}/pairs/{found[0]}")
    assert MARKUP in one(page, "#asked .said").text
    assert "<script>alert(1)</script>" in one(page, "#calls").text
    assert [entry for entry in page.get_log("browser") if "Content Security Policy" in entry["message"]] == []
    policy = httpx.get(f"{served.control}/pairs/{found[0]}", headers={"accept": "text/html"}).headers
    assert policy["content-security-policy"].startswith("default-src 'none'; ")


def _says_markup(served: Served, id: str) -> bool:
    return MARKUP in (httpx.get(f"{served.control}/pairs/{id}").json()["request"]["prompt"] or "")


def test_the_policy_would_stop_a_script_that_got_through(page: Chrome) -> None:
    """Belt and braces: markup that a page of ours let through would still not run."""
    page.execute_script(
        "const s = document.createElement('script'); s.textContent = 'window.owned = 1'; document.body.append(s);"
        f"const i = document.createElement('img'); i.src = '{ELSEWHERE}'; document.body.append(i)"
    )
    assert page.execute_script("return window.owned") is None
    messages = network(page)
    asked = {
        m["params"]["requestId"]
        for m in messages
        if m["method"] == "Network.requestWillBeSent" and m["params"]["request"]["url"] == ELSEWHERE
    }
    failed = {m["params"]["requestId"]: m["params"] for m in messages if m["method"] == "Network.loadingFailed"}
    assert asked
    assert [failed[id]["blockedReason"] for id in asked] == ["csp"], "it never left the browser"


def test_no_prompt_is_in_the_metrics_or_the_log(served: Served) -> None:
    metrics = httpx.get(f"{served.control}/metrics").text
    said = served.log.read_text(errors="replace")
    assert "parity_verdict" in metrics
    assert "the verdict is fail" in said
    for secret in ("SECRET-4711", "Create a support ticket", "access code", "Track the order"):
        assert secret not in metrics
        assert secret not in said
