"""Opens the report in headless Chromium and checks what only a browser can tell.

check.py --find      exit code 0 when there is a browser
check.py FOLDER      checks FOLDER/*/index.html; one JSON object a line: {"check", "problem"}
"""

import gzip
import json
import os
import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def browser_path(playwright):
    """A Chromium that is installed: named by the user, on the PATH, or playwright's own."""
    names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"]
    found = [os.environ.get("TOUCHSTONE_BROWSER"), *map(shutil.which, names)]
    cache = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH", Path.home() / ".cache/ms-playwright"))
    found += [playwright.chromium.executable_path, *map(str, cache.glob("chromium*/*/*headless_shell*"))]
    return next((path for path in found if path and os.access(path, os.X_OK)), None)


class Pages:
    """Opens pages; everything that one says on its console or asks of the network is kept."""

    def __init__(self, browser, folder):
        self.browser, self.folder, self.said, self.asked = browser, Path(folder), [], []

    def names(self):
        return sorted(path.parent.name for path in self.folder.glob("*/index.html"))

    def open(self, name, viewport=WIDE, fragment="", **context):
        page = self.browser.new_context(viewport=viewport, **context).new_page()
        page.on("console", lambda message: self.said.append(f"{name}: {message.text}"))
        page.on("pageerror", lambda error: self.said.append(f"{name}: {error}"))
        page.on("request", lambda request: self.asked.append(request.url))
        if name:
            page.goto(self.address(name) + fragment)
        return page

    def address(self, name):
        return (self.folder / name / "index.html").resolve().as_uri()

    def screenshot(self, page, name, **options):
        if os.environ.get("TOUCHSTONE_LOOK"):
            page.screenshot(path=self.folder / f"{name}.png", **options)


def unfold(page):
    """Opens what is folded and lays out what the screen does not show yet."""
    page.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true })")
    lay_out(page)


def lay_out(page):
    page.add_style_tag(content=".operation { content-visibility: visible }")


@check
def opens_without_errors_and_loads_nothing(pages):
    for name in pages.names():
        for scheme in ["light", "dark"]:
            page = pages.open(name, color_scheme=scheme)
            pages.screenshot(page, f"{name}-{scheme}")
            page.context.close()
    assert not pages.said, f"the console says {pages.said}"
    foreign = [url for url in pages.asked if not url.startswith("file:")]
    assert not foreign, f"the page asks for {foreign}"


@check
def is_usable_within_a_second_of_two_thousand_records(pages):
    said = []
    for _ in range(5):
        page = pages.open("large")
        drawn = page.evaluate("""async () => {
            await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
            return performance.now() / 1000;
        }""")
        page.context.close()
        # Again by the clock of the page's own thread, which stands still while other processes have the machine.
        page = pages.open(None)
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})
        page.goto(pages.address("large"))
        page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
        metrics = {m["name"]: m["value"] for m in session.send("Performance.getMetrics")["metrics"]}
        page.context.close()
        said.append(f"drawn after {drawn:.2f} s, {metrics['ThreadTime']:.2f} s of its own")
        if drawn < 1.0 or metrics["ThreadTime"] < 0.5:
            return
    raise AssertionError("; ".join(said))


def column(page, table, index):
    """The visible cells of a column of the page's table number `table`."""
    return page.evaluate("""([table, index]) => [...document.querySelectorAll('table.records')[table].tBodies[0].rows]
        .filter((row) => !row.hidden).map((row) => row.cells[index].textContent.trim())""", [table, index])


def seconds(text):
    number, unit = text.split()[:2]
    return float(number) * {"ns": 1e-9, "µs": 1e-6, "ms": 1e-3, "s": 1}[unit]


@check
def tables_sort_by_number_and_unit(pages):
    page = pages.open("troubled")
    unfold(page)
    table = page.locator("table.records").first
    headings = table.locator("th").all_inner_texts()
    median = headings.index("median")
    unsorted = column(page, 0, median)
    table.locator("th button").nth(median).click()
    cells = column(page, 0, median)
    assert sorted(unsorted) == sorted(cells) and unsorted != cells, "sorting lost or moved nothing"
    times = [seconds(cell) for cell in cells if cell]
    assert times == sorted(times), f"not ascending: {cells}"
    table.locator("th button").nth(median).click()
    times = [seconds(cell) for cell in column(page, 0, median) if cell]
    assert times == sorted(times, reverse=True), "not descending"
    assert table.locator("th").nth(median).get_attribute("aria-sort") == "descending"
    table.locator("th button").nth(headings.index("variant")).click()
    variants = column(page, 0, headings.index("variant"))
    assert variants == sorted(variants), f"not by name: {variants}"


@check
def tables_filter_by_words(pages):
    page = pages.open("troubled")
    unfold(page)
    before = column(page, 0, 1)
    box = page.locator("input.filter:has(+ .scroll table.records)").first
    wanted = before[-1]
    box.fill(wanted.upper())
    after = column(page, 0, 1)
    assert after and all(wanted in cell for cell in after) and len(after) < len(before), f"{wanted}: {after}"
    box.fill("")
    assert column(page, 0, 1) == before, "an empty filter hides rows"


@check
def hovering_shows_exact_values(pages):
    page = pages.open("troubled")
    for shape in ["circle", "rect", "path[class^=s]:not(.whisker)"]:
        mark = page.locator(f"figure svg {shape}").first
        title = mark.locator("title").text_content()
        mark.hover(force=True)
        tip = page.locator("#tip")
        assert tip.is_visible() and tip.inner_text().startswith(title), f"{shape}: {tip.inner_text()} for {title}"
        box = tip.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 1280, "the hint leaves the screen"
    page.mouse.move(2, 2)
    assert page.locator("#tip").is_hidden(), "the hint stays"


@check
def a_click_isolates_a_series_and_a_second_frees_it(pages):
    page = pages.open("troubled")
    figure = page.locator("section.operation figure:has(.legend button)").first
    button = figure.locator(".legend button").first
    name = button.locator("xpath=..").get_attribute("class")

    def shown():
        return set(figure.evaluate("""(figure) => [...figure.querySelectorAll('svg [class]:not(.dim)')]
            .map((shape) => /\\bs\\d\\b/.exec(shape.getAttribute('class'))?.[0]).filter(Boolean)"""))

    everything = shown()
    assert len(everything) > 1
    for isolate in [button.click, figure.locator(f"svg circle.{name}, svg rect.{name}").first.click]:
        isolate()
        assert shown() == {name}, f"{shown()} beside {name}"
        assert button.get_attribute("aria-pressed") == "true"
        button.click()
        assert shown() == everything


@check
def permalinks_open_what_is_folded(pages):
    page = pages.open("troubled")
    anchor = page.evaluate("[...document.querySelectorAll('tr[id^=c-]')].at(-1).id")
    page.context.close()
    # By address, and by a link within the page.
    page = pages.open("troubled", fragment=f"#{anchor}")
    page.wait_for_timeout(100)
    assert page.locator(f"#{anchor} code").is_visible()
    assert page.locator(f"#{anchor}").evaluate("(row) => row.getBoundingClientRect().top < innerHeight")
    replay = page.locator(f"#{anchor} code").inner_text()
    assert replay.startswith("touchstone check '") and "\n" not in replay, replay
    link = page.locator("table.ladder caption a").first
    target = link.get_attribute("href")
    link.click()
    page.wait_for_timeout(100)
    assert page.locator(f"{target} code").is_visible(), f"{target} stays folded"


# Pairs of visible texts whose lines cover each other by more than rounding.
OVERLAPS = """() => {
    const lines = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const range = document.createRange();
    for (let node; (node = walker.nextNode());) {
        if (!node.textContent.trim() || node.parentElement.closest('title, script, style')) continue;
        if (!node.parentElement.checkVisibility()) continue;
        range.selectNodeContents(node);
        for (const box of range.getClientRects()) {
            // The height of the letters, not of the line; a text beside its own shadow box never touches.
            const inset = box.height * 0.2;
            if (box.width > 2) lines.push({ node, left: box.left + 1, right: box.right - 1,
                top: box.top + inset, bottom: box.bottom - inset });
        }
    }
    lines.sort((a, b) => a.top - b.top);
    const found = [];
    lines.forEach((a, index) => {
        for (let next = index + 1; next < lines.length && lines[next].top < a.bottom; next++) {
            const b = lines[next];
            if (a.node !== b.node && a.left < b.right && b.left < a.right)
                found.push(`'${a.node.textContent.trim()}' covers '${b.node.textContent.trim()}'`);
        }
    });
    return [lines.length, found.slice(0, 8)];
}"""


def overlaps(pages, viewport, label):
    for name in pages.names():
        page = pages.open(name, viewport)
        unfold(page) if name != "large" else lay_out(page)
        count, found = page.evaluate(OVERLAPS)
        pages.screenshot(page, f"{name}-{label}", full_page=name != "large")
        assert count > 300, f"only {count} lines of text on {name}"
        assert not found, f"{name}: {found}"
        page.context.close()


@check
def no_texts_overlap_on_a_wide_screen(pages):
    overlaps(pages, WIDE, "wide")


@check
def no_texts_overlap_on_a_narrow_screen(pages):
    overlaps(pages, NARROW, "narrow")


@check
def nothing_needs_sideways_scrolling(pages):
    for name in pages.names():
        for viewport in [WIDE, NARROW]:
            page = pages.open(name, viewport)
            if name != "large":
                unfold(page)
            width = page.evaluate("document.documentElement.scrollWidth")
            assert width <= viewport["width"], f"{name} is {width} wide on {viewport['width']}"
            page.context.close()


# Texts whose colour stands out less than 4.5 : 1 from what is behind them.
PALE = """() => {
    const channels = (colour) => /rgba?\\(([^)]+)\\)/.exec(colour)[1].split(/[ ,/]+/).map(Number);
    const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
        .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const colour = channels(getComputedStyle(at).backgroundColor);
            if (colour.length < 4 || colour[3] > 0.99) return colour;
        }
        return [255, 255, 255];
    };
    const pale = new Map();
    for (const element of document.querySelectorAll('h1, h2, h3, h4, p, li, th, td, a, b, code, summary, small, svg text')) {
        const svg = element.closest('svg');
        const style = getComputedStyle(element);
        const [ink, paper] = [channels(svg ? style.fill : style.color), behind(svg ?? element)];
        const [high, low] = [light(ink), light(paper)].sort((a, b) => b - a);
        const ratio = (high + 0.05) / (low + 0.05);
        if (ratio < 4.5) pale.set(`${element.tagName} ${element.getAttribute('class')} ${style.color}`, ratio.toFixed(2));
    }
    return [...pale].slice(0, 8);
}"""


@check
def texts_can_be_read_in_light_and_dark(pages):
    for scheme in ["light", "dark"]:
        page = pages.open("troubled", color_scheme=scheme)
        unfold(page)
        pages.screenshot(page, f"troubled-{scheme}-unfolded", full_page=True)
        pale = page.evaluate(PALE)
        assert not pale, f"{scheme}: {pale}"
        page.context.close()


@check
def is_complete_without_scripts(pages):
    def content(page):
        return page.evaluate("""() => [document.querySelectorAll('svg').length, document.querySelectorAll('tr').length,
            document.querySelectorAll('details').length, document.querySelectorAll('svg title').length]""")

    with_scripts, without = pages.open("troubled"), pages.open("troubled", java_script_enabled=False)
    assert content(with_scripts) == content(without), "scripts add or remove content"
    summary = without.locator("section.operation details summary").first
    summary.click()
    assert without.locator("section.operation details table").first.is_visible(), "details do not open"
    assert without.locator("input").count() == 0, "a control that does nothing"


@check
def prints_everything(pages):
    for name in pages.names():
        page = pages.open(name)
        page.emulate_media(media="print")
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        folded = page.locator("details:not([open])").count()
        assert folded == 0, f"{name}: {folded} parts stay folded on paper"
        assert page.locator("nav").first.is_hidden()
        page.set_viewport_size({"width": 718, "height": 1000})
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 718, f"{name} is {wide} wide on paper of 718"
        if name != "large":
            count, found = page.evaluate(OVERLAPS)
            assert not found, f"{name} on paper: {found}"
            pages.screenshot(page, f"{name}-print", full_page=True)
            pdf = page.pdf(format="A4")
            assert len(pdf) > 50_000
            if os.environ.get("TOUCHSTONE_LOOK"):
                (pages.folder / f"{name}.pdf").write_bytes(pdf)
        page.context.close()


@check
def the_records_can_be_downloaded(pages):
    page = pages.open("large", accept_downloads=True)
    with page.expect_download() as download:
        page.locator("a.download").click()
    assert download.value.suggested_filename == "records.jsonl.gz"
    lines = gzip.decompress(Path(download.value.path()).read_bytes()).decode().splitlines()
    assert len(lines) == 2000 and json.loads(lines[0])["schema"], f"{len(lines)} records"


def main():
    with sync_playwright() as playwright:
        path = browser_path(playwright)
        if path is None:
            sys.exit("no Chromium was found (TOUCHSTONE_BROWSER names one; tests/browser/setup.sh tries to get one)")
        if sys.argv[1] == "--find":
            print(f"browser: {path}")
            return
        browser = playwright.chromium.launch(executable_path=path)
        for function in CHECKS:
            problem = None
            try:
                function(Pages(browser, sys.argv[1]))
            except Exception as error:  # Whatever goes wrong is the check's result.
                problem = f"{type(error).__name__}: {error}"
            print(json.dumps({"check": function.__name__, "problem": problem}), flush=True)
        browser.close()


main()
