"""The command `lab`."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from unrolled import cli, cli_lab, cli_time
from unrolled.lab import EXPERIMENTS, Number, Verdict

FEW = ("scalar-recursion", "sigmoid-example", "relu-blows-up")


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "140")

    def run(*words: object) -> tuple[int, str, str]:
        for module in (cli, cli_lab, cli_time):
            for name in ("out", "err"):
                if hasattr(module, name):
                    monkeypatch.setattr(getattr(module, name), "_file", None)
        status = cli.run([*map(str, words)])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> dict:
    """Some experiments that take no time, in the place of all."""
    chosen = {name: EXPERIMENTS[name] for name in FEW}
    monkeypatch.setattr(cli_lab, "EXPERIMENTS", chosen)
    return chosen


def test_it_lists_every_experiment_with_its_claim(call: Callable) -> None:
    status, out, _ = call("lab")
    assert status == 0
    for name, each in EXPERIMENTS.items():
        assert name in out
        assert each.claim.split()[0] in out


def test_one_is_measured_told_and_written(call: Callable, tmp_path: Path) -> None:
    status, out, said = call("lab", "scalar-recursion", "--seed", 3)
    assert status == 0, said
    assert "contradicts the claim" in out
    assert "Verdict: holds if the size of w is meant" in out
    record = json.loads((tmp_path / "lab-scalar-recursion.json").read_text())
    assert record["seed"] == 3
    assert record["experiments"][0]["reproduced"]
    page = (tmp_path / "lab-scalar-recursion.html").read_text()
    assert "A scalar recursion" in page


def test_all_are_measured_on_one_page(call: Callable, tmp_path: Path, few: dict) -> None:
    status, out, _ = call("lab", "all", "-o", tmp_path / "it.html")
    assert status == 0
    assert out.count(" s\n") == len(few)
    page = (tmp_path / "it.html").read_text()
    for each in few.values():
        assert each.title in page
    record = json.loads((tmp_path / "it.json").read_text())
    assert [each["name"] for each in record["experiments"]] == [*few]


def test_what_is_not_reproduced_ends_in_status_1_and_is_on_the_page(
    call: Callable, tmp_path: Path, few: dict
) -> None:
    few["relu-blows-up"] = replace(few["relu-blows-up"], verdict=Verdict("fails", "nothing"))
    status, _, said = call("lab", "all")
    assert status == 1
    assert said.count("\n") == 1
    assert (
        "relu-blows-up does not reproduce its verdict with seed 0: the numbers say that the claim holds"
        in said
    )
    assert "Not reproduced" in (tmp_path / "lab.html").read_text()
    assert not json.loads((tmp_path / "lab.json").read_text())["experiments"][2]["reproduced"]


def test_one_number_that_is_off_ends_in_status_1(call: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    known = EXPERIMENTS["scalar-recursion"]

    def measure(setup: object) -> object:
        found = known.measure(setup)
        return replace(found, numbers=[*found.numbers, Number("planted", 1.001, 1.0)])

    monkeypatch.setitem(EXPERIMENTS, "scalar-recursion", replace(known, measure=measure))
    status, out, said = call("lab", "scalar-recursion")
    assert status == 1
    assert "planted is 1.001, expected = 1" in said
    assert "not reproduced" in out


def test_what_is_done_is_kept_when_somebody_stops_it(call: Callable, tmp_path: Path, few: dict) -> None:
    def stop(_: object) -> None:
        raise KeyboardInterrupt

    few["relu-blows-up"] = replace(few["relu-blows-up"], measure=stop)
    status, _, said = call("lab", "all")
    assert status == 130
    assert "not done: relu-blows-up" in said
    assert len(json.loads((tmp_path / "lab.json").read_text())["experiments"]) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("scalar-recursions",), "did you mean scalar-recursion or vector-recursion"),
        (("§",), "no experiment '§': `unrolled lab` lists them"),
        (("scalar-recursion", "--seed", "-1"), "a seed is a whole number from 0"),
        (("scalar-recursion", "-o", "."), "--output '.' is no file"),
        (("scalar-recursion", "-o", "none/it.html"), "there is no folder 'none'"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(call: Callable, words: tuple, message: str) -> None:
    status, _, said = call("lab", *words)
    assert status == 2
    assert message in said
    assert said.count("\n") == 1


def test_the_page_in_a_browser(call: Callable, tmp_path: Path, few: dict) -> None:
    """No message, no request, nothing that sticks out, and a verdict leads to its experiment."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    browsers = ("chromium", "chromium-browser", "google-chrome")
    browser_path = next(filter(None, map(shutil.which, browsers)), None)
    if browser_path is None:
        pytest.skip("needs a browser: chromium")
    assert call("lab", "all")[0] == 0
    address = (tmp_path / "lab.html").as_uri()
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        for width, scheme in ((360, "dark"), (1400, "light")):
            view = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
            messages: list[str] = []
            view.on("console", lambda m, kept=messages: kept.append(m.text))
            view.on("pageerror", lambda e, kept=messages: kept.append(str(e)))
            view.on(
                "request", lambda r, kept=messages: None if r.url.startswith(address) else kept.append(r.url)
            )
            view.goto(address)
            assert not [m for m in messages if not m.startswith("data:")]
            assert view.locator("figure").count() >= 2 * len(few)
            assert view.evaluate("document.documentElement.scrollWidth") <= width
            view.get_by_role("link", name=few["relu-blows-up"].title).last.click()
            heading = view.get_by_role("heading", name=few["relu-blows-up"].title, level=2)
            view.wait_for_timeout(50)
            assert 0 <= heading.bounding_box()["y"] < 400
        browser.close()
