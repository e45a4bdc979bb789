"""What is compared in translation is the same network, and what is asked is asked on the right side."""

from dataclasses import replace

import pytest
import torch

from benchmarks import translation
from benchmarks.family import Settings
from benchmarks.translation import SYMBOLS, TRANSLATOR, Trained, apart, bleu_records
from benchmarks.translation_peer import peer_of
from unrolled.errors import DataError
from unrolled.tasks.symbols import symbol_pairs
from unrolled.tasks.translate import TranslateTask

pytest.importorskip("tokenizers")
pytest.importorskip("sacrebleu")

PAIRS = symbol_pairs("reverse(symbols=6, shortest=1, longest=7, pairs=300)")
BLEU, SYMBOL, SPEED = translation.FAMILIES


def task_of(**options):
    return TranslateTask(
        "pairs", PAIRS, replace(TRANSLATOR, hidden=12, embedding=8, holdout=30, batch=10, **options)
    )


@pytest.mark.parametrize("lexical", [False, True])
@pytest.mark.parametrize("place", ["after", "inside"])
def test_the_peer_is_the_same_network(place, lexical):
    task = task_of(attention=place, score=None, lexical=lexical)
    batches = [task.batch(step) for step in range(5)]
    assert apart(task, peer_of(task.model, task.config), batches) < 1e-5
    peer = peer_of(task.model, task.config)
    with torch.no_grad():
        peer.cell.weight_hh *= 1.2
    assert apart(task, peer, batches) > 1e-5


def test_attention_is_to_add_three_bleu_in_the_mean_within_twenty_minutes():
    def verdict(*gains, minutes=1.0):
        with_it = [Trained(minutes, 5.0 + gain, 0.0) for gain in gains]
        without = [Trained(99.0, 5.0, 0.0)] * len(gains)
        found = bleu_records({"with attention": with_it, "without attention": without}, asked=True)
        first, *rest, last = (BLEU.verdict(each.figure, each.bar, each.unit) for each in found)
        assert rest == ["", ""]
        return first, last

    assert verdict(2.5, 3.5, 3.1) == ("ok", "ok")
    assert verdict(2.5, 3.5, 2.9, minutes=20.1) == ("below", "above")


def test_symbols_are_asked_to_be_right_with_attention(monkeypatch):
    monkeypatch.setattr(translation, "train", lambda label, pairs, config: Trained(
        0.5, 90.0, 0.995 if config.attention == "after" else 0.1))  # fmt: skip
    found = [*translation.measure_symbols(Settings(rounds=3))]
    assert [each.subject for each in found] == [
        f"{name}, {how} attention" for name in ("reverse", "copy") for how in ("with", "without")
    ]
    assert [SYMBOL.verdict(each.figure, each.bar) for each in found] == ["ok", "", "ok", ""]
    assert SYMBOL.verdict(0.98, found[0].bar) == "below"
    assert SYMBOLS.steps > 0


def test_every_step_is_made_by_both_sides():
    task = task_of()
    batches = [task.batch(step) for step in range(2)]
    ours = translation.Ours(task, batches)
    before = [p.detach().clone() for p in task.model.parameters()]
    theirs = translation.Theirs(peer_of(task.model, task.config), batches, task.config)
    peers = [p.detach().clone() for p in theirs.peer.parameters()]
    ours()
    theirs()
    for old, new in ((before, task.model.parameters()), (peers, theirs.peer.parameters())):
        assert all(not torch.equal(a, b) for a, b in zip(old, new, strict=True))


def test_a_quick_look_is_had_without_waiting(monkeypatch):
    monkeypatch.setattr(translation, "named_pairs", lambda name: PAIRS)
    small = replace(TRANSLATOR, hidden=12, embedding=8, holdout=30, batch=10, steps=3)
    monkeypatch.setattr(translation, "TRANSLATOR", small)
    monkeypatch.setattr(translation, "SYMBOLS", replace(SYMBOLS, hidden=8, embedding=4))
    quick = Settings(rounds=1, quick=True)
    for family in translation.FAMILIES:
        found = [*family.measure(quick)]
        assert found
        assert all(each.figure is not None and not each.refused for each in found), found
        assert family.name != "translation-speed" or all("tokens/s against" in each.note for each in found)


def test_without_the_data_nothing_is_measured(monkeypatch):
    def missing(name):
        raise DataError("german-english was not fetched")

    monkeypatch.setattr(translation, "named_pairs", missing)
    for measure in (translation.measure, translation.measure_speed):
        (record,) = measure(Settings())
        assert record.refused
        assert "was not fetched" in record.note
