"""From records to verdicts, table, figure and files."""

import dataclasses
import math
import xml.etree.ElementTree as ET

import pytest

from benchmarks import __main__ as command
from benchmarks import results, table
from benchmarks.families import FAMILIES
from benchmarks.family import GRID, Family, Record, Settings
from benchmarks.figure import draw
from benchmarks.results import Section

RATIOS = Family("lstm", "LSTM against a peer, training", lambda _: iter(()), mean=1.35, caption="All of it.")
FLOORS = Family("labels", "Labels", lambda _: iter(()), unit="right", least=True)
LIMITS = Family("memory", "Memory", lambda _: iter(()), unit="floats", caption="Peak.")


def point(figure: float | None, k: int = 0, bar: float | None = 0.95, **more) -> Record:
    if figure is None:
        return Record("LSTM", size=GRID[k], bar=bar, note="d_x differs by 2.0e-02", refused=True)
    return Record(
        "LSTM", figure, 0.9 * figure, 1.1 * figure, GRID[k], bar, (0.001, 0.002), (0.003, 0.004), 10, **more
    )


@pytest.mark.parametrize(
    ("family", "figure", "bar", "verdict"),
    [
        (RATIOS, 0.95, 0.95, "ok"), (RATIOS, 0.94, 0.95, "below"), (RATIOS, 0.5, None, ""),
        (RATIOS, None, 0.95, ""), (LIMITS, 8.0, 8.0, "ok"), (LIMITS, 8.1, 8.0, "above"),
        (FLOORS, 0.9, 0.9, "ok"), (FLOORS, 0.89, 0.9, "below"),
    ],
)  # fmt: skip
def test_a_verdict_is_on_the_right_side_of_the_bar(family, figure, bar, verdict):
    assert family.verdict(figure, bar) == verdict


def test_a_mean_is_geometric_and_of_each_subject():
    records = [point(0.5), point(8.0, 1), dataclasses.replace(point(3.0), subject="other", bar=None)]
    means = RATIOS.means(records)
    assert means["LSTM"] == (pytest.approx(2.0), 1.35, 2, 2)
    assert means["other"] == (pytest.approx(3.0), None, 1, 1)
    assert not LIMITS.means(records)


def test_a_mean_without_all_its_points_is_not_judged_ok():
    records = [point(9.0), point(None, 1)]
    mean = table.mean_row(RATIOS, "LSTM", RATIOS.means(records)["LSTM"])
    assert "mismatch" in mean
    assert "of 1 of 2 points" in mean


def test_rows_show_figure_bar_and_verdict():
    cells = table.row(RATIOS, point(0.5))
    assert cells[:4] == ("LSTM", "T=25 B=1 D=64 H=100", "1.00 / 2.00", "3.00 / 4.00")
    assert cells[4:] == ("0.50", "0.45 to 0.55", "≥ 0.95", "below", "")
    assert table.row(RATIOS, point(None))[6:] == ("≥ 0.95", "mismatch", "d_x differs by 2.0e-02")
    assert table.row(LIMITS, point(9.0, bar=8.0))[6:8] == ("≤ 8", "above")
    assert table.row(FLOORS, point(0.8, bar=0.9))[6:8] == ("≥ 0.9", "below")
    absent = Record("jax", bar=1.1, note="not installed")
    assert table.row(RATIOS, absent)[6:] == ("≥ 1.1", "missing", "not installed")


def test_losses_stand_out_and_come_into_the_summary():
    sections = {"lstm": Section("a machine, a date", (point(2.0), point(0.5, 1), point(1.0, 2)))}
    text = table.markdown({"lstm": RATIOS}, sections, "benchmarks.svg")
    (short,) = (line for line in text.splitlines() if line.startswith("| LSTM against"))
    assert short == (
        "| LSTM against a peer, training | LSTM | 1.00 | ≥ 1.35 | **below** | 0.50 at T=50 B=20 D=65 H=100 "
        "| ≥ 0.95 | **below** |"
    )
    assert "a machine, a date" in text
    assert text.count("geometric mean") == 2
    assert "(benchmarks.svg)" in text


def test_many_subjects_are_one_line_of_the_summary_which_names_the_worst():
    records = tuple(dataclasses.replace(point(k + 1.0), subject=f"cell {k}") for k in range(7))
    text = table.summary({"lstm": RATIOS}, {"lstm": Section("", records)})
    (line,) = text.splitlines()[2:]
    assert "the worst of 7 cells | 1.00 (cell 0) | ≥ 1.35 | **below** | 1.00 at cell 0, T=25" in line


def test_records_survive_the_file(tmp_path):
    sections = {
        "lstm": Section("here", (point(1.23456789), point(None, 1))),
        "jax": Section("here", (Record("a", note="b"),)),
    }
    results.save(tmp_path / "results.json", sections)
    loaded = results.load(tmp_path / "results.json")
    assert loaded["jax"] == sections["jax"]
    assert loaded["lstm"].records[1] == sections["lstm"].records[1]
    assert loaded["lstm"].records[0].figure == 1.2346
    assert loaded["lstm"].records[0].size == GRID[0]
    assert loaded["lstm"].records[0].ours == (0.001, 0.002)
    assert results.load(tmp_path / "none.json") == {}


def test_conditions_name_machine_versions_and_settings():
    told = results.conditions(Settings(rounds=7, threads=3, quick=True))
    assert "3 threads" in told
    assert "torch" in told
    assert "at least 7 turns" in told
    assert "--quick" in told
    assert "--quick" not in results.conditions(Settings())


def everything() -> dict[str, Section]:
    """Something for every family: losses, a mismatch, and what is missing."""
    found = {}
    for n, family in enumerate(FAMILIES.values()):
        records = [point(math.exp((k % 3 + n % 4 - 2) / 3), k) for k in range(len(GRID))]
        if not family.mean:
            records = [
                dataclasses.replace(r, size=None, subject=f"thing {k}") for k, r in enumerate(records[:3])
            ]
        records += [point(None), Record("another", bar=1.0, note="missing")]
        found[family.name] = Section("here", tuple(records))
    return found


def test_the_figure_has_a_panel_for_every_family_and_is_the_same_each_time():
    sections = everything()
    picture = draw(FAMILIES, sections)
    assert draw(FAMILIES, sections) == picture
    axes = [
        g for g in ET.fromstring(picture).iter("{http://www.w3.org/2000/svg}g") if "axes_" in g.get("id", "")
    ]
    assert len(axes) == len(FAMILIES) - 3, "training and inference share a panel"
    assert draw(FAMILIES, {"char": sections["char"]}, "png").startswith(b"\x89PNG")


def fake(monkeypatch, *records: Record) -> None:
    family = dataclasses.replace(FAMILIES["lstm"], measure=lambda settings: iter(records))
    monkeypatch.setitem(command.FAMILIES, "lstm", family)
    monkeypatch.setattr(command.torch, "set_num_threads", lambda count: None)


def test_a_run_writes_records_table_and_figure_and_keeps_other_families(tmp_path, monkeypatch, capsys):
    fake(monkeypatch, point(2.0), point(0.5, 1))
    other = {"char": Section("earlier", (Record("trainer", 11.0, 10.0, 12.0, bar=10.0, turns=9),))}
    results.save(tmp_path / "results.json", other)
    assert command.main(["lstm", "--out", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "results.md", "benchmarks.svg"}
    assert results.load(tmp_path / "results.json")["char"] == other["char"]
    printed = capsys.readouterr().out
    assert "below" in printed
    assert "geometric mean" in printed
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert command.main(["--redraw", "--out", str(tmp_path)]) == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_quick_look_writes_nothing(tmp_path, monkeypatch):
    fake(monkeypatch, point(2.0))
    monkeypatch.setattr(command, "HERE", tmp_path)
    monkeypatch.setattr(command, "DOCS", tmp_path)
    assert command.main(["lstm", "--quick"]) == 0
    assert not list(tmp_path.iterdir())


def test_a_mismatch_is_a_failure_of_the_run(tmp_path, monkeypatch, capsys):
    fake(monkeypatch, point(None))
    assert command.main(["lstm", "--out", str(tmp_path)]) == 1
    assert "mismatch" in capsys.readouterr().out
    assert "**mismatch** | d_x differs" in (tmp_path / "results.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lstn"], "no family 'lstn'; there are lstm, gru"),
        (["--rounds", "0"], "must be at least 1"),
        (["--redraw", "--out", "nowhere"], "there are no results in nowhere"),
    ],
)
def test_bad_arguments_are_refused_in_words(arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        command.main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_the_readme_shows_what_was_measured_last() -> None:
    readme = command.README.read_text()
    sections = results.load(command.HERE / "results.json")
    assert table.in_readme(readme, FAMILIES, sections) == readme
