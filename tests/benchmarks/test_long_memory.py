"""The problems are those of the papers, and both gradients begin and see the same."""

import math
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from benchmarks import __main__ as command
from benchmarks import long_memory, results
from benchmarks.families import FAMILIES
from benchmarks.family import Record, Settings
from benchmarks.figure import draw
from benchmarks.long_memory import EXACT, RECIPES, TRUNCATED, Adding, Copying, Learner, Recipe, train
from benchmarks.results import Section
from unrolled import Full


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tiny(name: str, updates: int = 4) -> Recipe:
    recipe = RECIPES[name]
    return replace(
        recipe, problem=recipe.problem._replace(T=24), H=5, B=3, segment=12, reach=10, updates=updates
    )


def test_adding_marks_two_numbers_that_lie_half_the_sequence_back():
    seen, targets = Adding(40).draw(2000, generator())
    numbers, marks = seen.unbind(-1)
    assert seen.shape == (40, 2000, 2)
    assert torch.equal(marks.sum(0), torch.full((2000,), 2.0))
    assert bool((marks[:10].sum(0) >= 1).all())
    assert not marks[20:].any()
    assert bool(marks[:20].any(1).all())
    torch.testing.assert_close(targets, (numbers * marks).sum(0, keepdim=True))
    assert float((targets - 1).square().mean()) == pytest.approx(Adding.baseline, rel=0.1)


def test_copying_shows_ten_symbols_a_cue_and_asks_for_them_at_the_end():
    seen, targets = Copying(30).draw(500, generator())
    assert seen.shape == targets.shape == (50, 500)
    assert set(seen[:10].unique().tolist()) == set(range(1, 9))
    assert (seen == 9).nonzero()[:, 0].unique().tolist() == [39]
    assert not seen[10:39].any()
    assert not seen[40:].any()
    assert torch.equal(targets[40:], seen[:10])
    assert not targets[:40].any()


def test_who_knows_the_time_but_no_symbol_has_the_baselines_error():
    problem = Copying(30)
    _, targets = problem.draw(7, generator())
    knows = torch.full((50, 7, 9), -1e9)
    knows[:40, :, 0] = knows[40:, :, 1:] = 0.0
    assert float(problem.error(knows, targets)) / targets.numel() == pytest.approx(problem.baseline, rel=1e-5)


@pytest.mark.parametrize("name", RECIPES)
def test_a_step_of_segments_is_the_error_of_the_whole(name):
    torch.manual_seed(0)
    learner = Learner(tiny(name))
    seen, targets = batch = learner.problem.draw(3, generator())
    answers = learner.head(learner.layer(seen)[0])
    if name == "adding":
        expected = F.mse_loss(answers[-1:, :, 0], targets)
    else:
        expected = F.cross_entropy(answers.flatten(0, 1), targets.flatten())
    error, wrong = learner.examined(batch)
    assert error == pytest.approx(expected.item(), rel=1e-5)
    if name == "copying":
        assert wrong == pytest.approx(float((answers[-10:].argmax(-1) != targets[-10:]).float().mean()))
    before = [p.detach().clone() for p in learner.parameters()]
    assert learner.update(batch, EXACT) == pytest.approx(error, rel=1e-5)
    assert not any(torch.equal(a, b) for a, b in zip(before, learner.parameters(), strict=True))


@pytest.mark.parametrize("name", RECIPES)
def test_the_checkpointed_training_is_that_of_one_tape_and_the_truncated_another(name):
    recipe = tiny(name)
    exact, whole, cut = (train(recipe, bptt) for bptt in (EXACT, Full(), TRUNCATED))
    assert exact.error == pytest.approx(whole.error, rel=1e-4)
    assert exact.curve[0][1] == pytest.approx(cut.curve[0][1], rel=1e-5), "the first update sees the same"
    assert exact.error != pytest.approx(cut.error, rel=1e-4)
    assert len(exact.curve) == recipe.updates
    assert list(exact.curve) == sorted(exact.curve, key=lambda point: point[0])


def test_truncation_is_a_hundred_steps():
    assert [recipe.reach for recipe in RECIPES.values()] == [100, 102]


def measured(monkeypatch, quick: bool) -> list[Record]:
    monkeypatch.setattr(long_memory, "RECIPES", {name: tiny(name) for name in RECIPES})
    monkeypatch.setattr(long_memory, "short", lambda recipe: replace(recipe, B=2))
    monkeypatch.setattr(long_memory, "child", lambda *arguments: 123.0)
    return list(long_memory.measure(Settings(quick=quick)))


def test_records_say_what_is_asked_and_keep_the_curves(monkeypatch, tmp_path):
    found = measured(monkeypatch, quick=False)
    assert [(record.subject, record.unit, record.bar) for record in found] == [
        ("adding, exact", "", 0.06), ("adding, exact", "min", 20), ("adding, exact", "MB", 300),
        ("adding, truncated", "", 0.1),
        ("copying, exact", "", 0.06), ("copying, exact", "", 0.01), ("copying, exact", "min", 20),
        ("copying, exact", "MB", 300), ("copying, truncated", "", 0.1), ("copying, truncated", "", None),
    ]  # fmt: skip
    assert all(record.figure is not None and math.isfinite(record.figure) for record in found)
    assert sum(len(record.curve) for record in found) == 4 * 4
    sections = {"long_memory": Section("here", tuple(found))}
    results.save(tmp_path / "results.json", sections)
    loaded = results.load(tmp_path / "results.json")["long_memory"].records
    assert [len(record.curve) for record in loaded] == [len(record.curve) for record in found]
    picture = draw(FAMILIES, sections)
    assert picture == draw(FAMILIES, sections)
    groups = [g.get("id", "") for g in ET.fromstring(picture).iter("{http://www.w3.org/2000/svg}g")]
    assert sum(name.startswith("axes_") for name in groups) == 2


def test_its_picture_is_also_a_file_of_its_own(monkeypatch, tmp_path):
    section = Section("here", tuple(measured(monkeypatch, quick=False)))
    command.write({"long_memory": section}, tmp_path)
    assert (tmp_path / "long_memory.svg").read_bytes() == draw(FAMILIES, {"long_memory": section})


def test_nothing_is_asked_of_a_quick_look(monkeypatch):
    assert not any(record.bar for record in measured(monkeypatch, quick=True))
