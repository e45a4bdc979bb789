"""A page in a browser: on phones and wide screens, in light and dark, by pointer and keys, without script."""

import contextlib
import math
import shutil

import pytest
from parsed_page import NASTY

from unrolled.report.page import (
    Bars,
    Finding,
    Heat,
    Lines,
    Mark,
    Section,
    Series,
    Spans,
    Table,
    Text,
    page,
)
from unrolled.report.scales import number

VIEWS = [
    pytest.param({"width": width, "height": height}, scheme, id=f"{width} {scheme}")
    for width, height in ((360, 740), (1400, 900))
    for scheme in ("light", "dark")
]
VALUES = [0.9**k for k in range(11)]
HALVES = [value / 2 for value in VALUES]
CELLS = [[(row + 1) * (column - 4) / 20 for column in range(12)] for row in range(5)]
WAVES = [[math.sin(k / 9) for k in range(300)]] * 2
BARS = [3.5, -1.25, 2.0]
PIECES = [("To", 0.5), (" ", -0.25), ("be", 1.0), ("\n", 0.0), ("or", -1.0), (" not", 0.125)]
LONG = "a long name of one single series that goes on for a while"


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(names)} is installed")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A page with every kind of item, long names and markup."""
    fan = [
        Series(f"σ{k + 1}", range(21), [math.exp(-0.3 * k * t - 0.01) for t in range(21)]) for k in range(20)
    ]
    sections = [
        Section("Lines", "What goes up and down.", [
            Lines("Two lines", "Read it.", "lag", "norm",
                  [Series("layer 1", range(11), VALUES), Series("layer 2", range(11), HALVES)],
                  log_y=True, marks=[Mark("x", 5, "here"), Mark("y", 0.5, "there")]),
            Lines("A fan", "Read it.", "t", "σ", fan, log_y=True),
            Lines("Long names", "Read it.", LONG, LONG, [
                Series(LONG, [0, 1e9], [1e-300, 1]), Series(NASTY, [0, 1], [1, 2])], log_y=True,
                  marks=[Mark("y", 1e-100, LONG * 2), Mark("x", 9e8, LONG * 2)]),
        ]),
        Section("Maps", "", [
            Heat("Cells", "Read it.", "column", "row", CELLS, (0, 11), [f"row {k}" for k in range(5)],
                 -1, 1, "value", diverging=True),
            Heat("Wide", "Read it.", "column", LONG, WAVES, (0, 299), [LONG, "b"], -1, 1, LONG),
            Bars("Bars", "Read it.", "steps", ["a", LONG, NASTY], BARS, [3, -2, 1.5], [4, -1, 2.5]),
        ]),
        Section("Texts", "", [
            Spans("Pieces", "Read it.", PIECES, -1, 1, "unit"),
            Table("Cells", "Read it.", [f"column {k}" for k in range(9)],
                  [[k * 1e5 for k in range(9)], [LONG, None] + [LONG] * 7]),
            Text("Prose", "`" + "unbroken" * 20 + "`\n\n" + LONG * 5),
            Lines("Nothing", "Read it.", "x", "y", []),
        ]),
    ]  # fmt: skip
    findings = [
        Finding("serious", LONG * 2, LONG * 3, "`" + "unbroken" * 12 + "`"),
        Finding("good", "Good", "", "Go on."),
    ]  # fmt: skip
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(page("A title", LONG, findings, sections, LONG), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def visit(browser, address):
    """Opens the page; at the end nothing may have been asked for, and nothing complained about."""
    faults, contexts = [], []

    def opened(view, scheme="light", **options):
        context = browser.new_context(viewport=view, color_scheme=scheme, **options)
        contexts.append(context)
        tab = context.new_page()
        tab.set_default_timeout(5000)
        tab.on("console", lambda message: faults.append(message.text))
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.on("dialog", lambda dialog: faults.append(dialog.message))
        tab.on("request", lambda request: faults.append(request.url) if kind(request.url) else None)
        tab.goto(address)
        return tab

    def kind(url):
        return url != address and not url.startswith(("data:", address + "#"))

    with contextlib.ExitStack() as stack:
        yield opened
        for context in contexts:
            stack.callback(context.close)
        assert faults == []


def figure(tab, title):
    return (
        tab.locator("figure").filter(has=tab.get_by_role("heading", name=title, exact=True)).locator(".chart")
    )


def hover(tab, chart, across, down):
    """Moves the pointer to fractions of a plot, and says what is shown then."""
    plot = chart.locator(".plot")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    tab.mouse.move(box["x"] + across * box["width"], box["y"] + down * box["height"])
    return shown(tab)


def shown(tab):
    tip = tab.locator(".tip")
    if not tip.is_visible():
        return None
    box, view = tip.bounding_box(), tab.viewport_size
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= view["width"]
    return tip.evaluate("""tip => [...tip.querySelectorAll('b, div')].map(row => row.matches('b')
        ? row.textContent : [...row.querySelectorAll('span, em')].map(cell => cell.textContent))""")


@pytest.mark.parametrize(("view", "scheme"), VIEWS)
def test_everything_is_seen_and_nothing_sticks_out_or_covers_another_text(visit, view, scheme):
    tab = visit(view, scheme)
    width = tab.evaluate("document.documentElement.clientWidth")
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    assert tab.locator("figure").count() == 9
    outside = tab.evaluate("""() => [...document.querySelectorAll('.shell :not(nav *)')].filter(node => {
        if (node.closest('.scroll, svg, script, .ys, .unseen')) return false;
        const box = node.getBoundingClientRect();
        return box.width && (box.left < 0 || box.right > innerWidth + 0.5);
    }).map(node => node.outerHTML.slice(0, 200))""")
    assert outside == []
    for box in tab.evaluate("""() => [...document.querySelectorAll('.plot')].map(plot => {
        const outer = plot.getBoundingClientRect(), card = plot.closest('figure').getBoundingClientRect();
        return [outer.width, outer.height, outer.left - card.left, card.right - outer.right];
    })"""):
        assert box[0] > 0.3 * min(width, 700)
        assert box[1] > 50
        assert min(box[2:]) > 0
    sizes = tab.evaluate("""() => [...document.querySelectorAll('main *')].filter(node => node.offsetParent
        && [...node.childNodes].some(child => child.nodeType === 3 && child.textContent.trim()))
        .map(node => parseFloat(getComputedStyle(node).fontSize))""")
    assert min(sizes) >= 12
    covered = tab.evaluate("""() => [...document.querySelectorAll('.frame')].flatMap(frame => {
        const texts = [...frame.querySelectorAll('.ys span, .xs span, .ends span, .values span')]
            .filter(node => node.getClientRects().length);
        const boxes = texts.map(node => node.getBoundingClientRect());
        return boxes.flatMap((a, i) => boxes.slice(i + 1).flatMap((b, j) =>
            a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 4 && b.top < a.bottom - 4
                ? [texts[i].textContent + ' | ' + texts[i + 1 + j].textContent] : []));
    })""")
    assert covered == []


@pytest.mark.parametrize(("view", "scheme"), VIEWS[::3])
def test_the_pointer_shows_the_values_it_is_at(visit, view, scheme):
    tab = visit(view, scheme)
    chart = figure(tab, "Two lines")
    for k in (0, 3, 10):
        assert hover(tab, chart, min(max(k / 10, 0.001), 0.999), 0.5) == [
            f"lag {k}", ["layer 1", number(VALUES[k])], ["layer 2", number(HALVES[k])],
        ]  # fmt: skip
    chart = figure(tab, "Cells")
    for row, column in ((0, 0), (4, 11), (2, 7)):
        assert hover(tab, chart, (column + 0.5) / 12, (row + 0.5) / 5) == [
            ["value", number(CELLS[row][column], 3)], ["row", f"row {row}"], ["column", str(column)],
        ]  # fmt: skip
    chart = figure(tab, "Bars")
    texts = ["3.5 (3 to 4)", "−1.25 (−2 to −1)", "2 (1.5 to 2.5)"]
    for k, name in enumerate(["a", LONG, NASTY.replace("\x00", "\u2400")]):
        found = hover(tab, chart, 0.5, (k + 0.5) / 3)
        assert found[1] == ["steps", texts[k]]
        assert found[0].replace("\x00", "\u2400") == name
    piece = figure(tab, "Pieces").locator(".plot > span").nth(4)
    piece.hover()
    assert shown(tab) == ["or", ["unit", "−1"]]
    tab.mouse.move(1, 1)
    assert shown(tab) is None


def test_a_dot_stands_on_its_line(visit):
    """Where the script puts a dot is where the drawing has the point."""
    tab = visit({"width": 1400, "height": 900})
    chart = figure(tab, "Two lines")
    for k in (0, 4, 10):
        hover(tab, chart, min(max(k / 10, 0.001), 0.999), 0.5)
        away = chart.evaluate("""(chart, k) => {
            const path = chart.querySelectorAll('svg .line')[0];
            const [x, y] = path.getAttribute('d').slice(1).split('L')[k].split(' ').map(Number);
            const point = new DOMPoint(x, y).matrixTransform(path.getScreenCTM());
            const box = chart.querySelector('.dot').getBoundingClientRect();
            return Math.hypot(box.x + box.width / 2 - point.x, box.y + box.height / 2 - point.y);
        }""", k)  # fmt: skip
        assert away < 0.5


@pytest.mark.parametrize(("view", "scheme"), VIEWS[::3])
def test_arrow_keys_move_through_values_and_series(visit, view, scheme):
    tab = visit(view, scheme)
    press = tab.keyboard.press
    figure(tab, "Two lines").focus()
    press("ArrowRight")
    assert shown(tab)[0] == "lag 0"
    press("ArrowRight")
    press("ArrowRight")
    assert shown(tab)[1] == ["layer 1", number(VALUES[2])]
    assert tab.locator("[role=status]").text_content() == f"lag 2, layer 1 {number(VALUES[2])}"
    press("ArrowDown")
    assert tab.locator("[role=status]").text_content() == f"lag 2, layer 2 {number(HALVES[2])}"
    assert tab.locator(".tip .on span").text_content() == "layer 2"
    press("End")
    assert shown(tab)[0] == "lag 10"
    press("Shift+ArrowLeft")
    assert shown(tab)[0] == "lag 0"
    press("Escape")
    assert shown(tab) is None
    figure(tab, "Cells").focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowDown", "ArrowUp"):
        press(key)
    assert shown(tab) == [["value", number(CELLS[1][1], 3)], ["row", "row 1"], ["column", "1"]]
    figure(tab, "Bars").focus()
    for key in ("ArrowDown", "ArrowDown"):
        press(key)
    assert shown(tab)[1] == ["steps", "−1.25 (−2 to −1)"]
    figure(tab, "Pieces").focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "ArrowDown"):
        press(key)
    assert shown(tab) == [" not".replace(" ", "␣"), ["unit", "0.125"]]
    press("ArrowUp")
    press("Home")
    assert shown(tab) == ["To", ["unit", "0.5"]]
    figure(tab, "A fan").focus()
    press("ArrowRight")
    for _ in range(12):
        press("ArrowDown")
    assert tab.locator(".tip .on span").text_content() == "σ13"
    assert shown(tab)[-1] == ["and 11 more", ""]
    assert tab.locator("svg .series.dim").count() == 19
    press("Tab")
    assert shown(tab) is None
    assert tab.locator("svg .series.dim").count() == 0


@pytest.mark.parametrize(("view", "scheme"), VIEWS[::3])
def test_tab_reaches_every_chart_and_table_and_shows_where_it_is(visit, view, scheme):
    tab = visit(view, scheme)
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.className") == "skip"
    assert tab.locator(".skip").bounding_box()["y"] >= 0
    reached = set()
    for _ in range(30):
        tab.keyboard.press("Tab")
        label, outline = tab.evaluate("""() => [document.activeElement.getAttribute('aria-label'),
            getComputedStyle(document.activeElement).outlineStyle]""")
        if label:
            assert outline == "solid"
            reached.add(label)
    wanted = tab.evaluate(
        "[...document.querySelectorAll('.chart, .scroll')].map(n => n.getAttribute('aria-label'))"
    )
    assert len(wanted) == 8
    assert reached == set(wanted)


def test_without_scripts_the_figures_are_there(visit):
    tab = visit({"width": 360, "height": 740}, java_script_enabled=False)
    assert tab.locator("figure").count() == 9
    for line in tab.locator(".plot .series .line").all()[:2]:
        assert line.bounding_box()["height"] > 20
    image = figure(tab, "Cells").locator("img.light")
    assert image.bounding_box()["width"] > 100
    assert tab.locator(".tip").count() == 0


def test_paper_is_light_whatever_the_screen_is(visit):
    tab = visit({"width": 900, "height": 900}, "dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    assert tab.evaluate(ground) != "rgb(255, 255, 255)"
    tab.emulate_media(media="print")
    assert tab.evaluate(ground) == "rgb(255, 255, 255)"
    assert tab.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_colours_of_pictures_follow_the_scheme(visit):
    for scheme in ("light", "dark"):
        tab = visit({"width": 900, "height": 900}, scheme)
        for image in figure(tab, "Cells").locator("img").all():
            assert image.is_visible() == (image.get_attribute("class") == scheme)
        tab.emulate_media(media="print")
        assert figure(tab, "Cells").locator("img.light").is_visible()
