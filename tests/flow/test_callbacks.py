"""A monitor in the loops of others: it is told of every step, and training is as without it."""

import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from unrolled import LSTM, InputError
from unrolled.flow import Monitor, callbacks, gradient_by_lag
from unrolled.flow.callbacks import MonitorObserver
from unrolled.tasks import char_runs
from unrolled.tasks.char import evaluating
from unrolled.tasks.char_config import CharConfig
from unrolled.train import checkpoint

V, T = 5, 10


class Model(nn.Module):
    """Says of every character what was two before."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(V, 6)
        self.layer = LSTM(6, 8, batch_first=True)
        self.head = nn.Linear(8, V)

    def forward(self, tokens, labels=None):
        logits = self.head(self.layer(self.embed(tokens))[0])
        if labels is None:
            return logits
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return {"loss": loss, "logits": logits}


def examples(count: int = 48) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(V, (count, T), generator=generator)
    return [{"tokens": row, "labels": row.roll(2)} for row in tokens]


def made() -> Model:
    torch.manual_seed(0)
    return Model()


def assert_same_weights(one: nn.Module, two: nn.Module) -> None:
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name]), name


def assert_measured(monitor: Monitor, steps: list[int], clipped: bool) -> None:
    """Every step has all that can be had, and training shows in it."""
    assert [each.step for each in monitor.history] == steps
    for each in monitor.history:
        assert not each.notes
        assert [place.place for place in each.places] == ["layer.l0"]
        assert each.places[0].gradient[0] > 0
        assert set(each.gradients) == {name for name, _ in monitor.model.named_parameters()}
        assert each.gradient_norm > 0
        assert each.clipped is clipped
    assert monitor.history[0].loss == pytest.approx(1.65, abs=0.2)
    assert monitor.history[-1].loss < monitor.history[0].loss
    assert not monitor.runs
    assert not monitor.model.layer._forward_pre_hooks


# This library's trainer


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("UNROLLED_CACHE", str(tmp_path / "cache"))
    source = random.Random(0)
    path = tmp_path / "text.txt"
    path.write_text("".join(source.choices("abc \n", k=3000)))
    return str(path)


SMALL = {"hidden": 8, "batch": 6, "bptt": 8, "sample_length": 5, "warmup": 0, "rate": 0.02, "steps": 12}


@pytest.mark.parametrize(
    "options",
    [{}, {"layers": 2, "dropout": 0.2}, {"bptt": "truncated(k1=4, k2=12)"}, {"dtype": "float64"}],
    ids=["direct", "with autograd", "truncated", "double"],
)
def test_a_character_model_is_trained_to_the_same_bits(text, tmp_path, options):
    saved = []
    for watched in (False, True):
        session = char_runs.start(text, CharConfig(**SMALL | options), tmp_path / "runs")
        observer = session.monitor(1)
        observer.monitor.share = 100.0
        assert session.train([observer] if watched else [])
        saved.append(checkpoint.newest(session.run.checkpoints, print).tensors)
    monitor = observer.monitor
    assert [each.step for each in monitor.history] == list(range(1, 13))
    assert not any(each.notes for each in monitor.history)
    assert {each.of for each in monitor.history} == {"loss"}
    assert Monitor.read(session.run.path / "flow.jsonl") == monitor.history
    for name, tensor in saved[0].items():
        assert torch.equal(tensor, saved[1][name]), name


def test_it_measures_the_chunk_that_comes_next(text, tmp_path):
    """With the state that the network is in, and the cross-entropy of single steps."""
    session = char_runs.start(
        text, CharConfig(**SMALL | {"reset": 0.0, "steps": 3, "clip_norm": 0.1}), tmp_path / "runs"
    )
    observer = session.monitor(1)
    observer.monitor.share = 100.0
    session.train([observer])
    task, model = session.task, session.task.model
    inputs, targets = task.streams[3]
    state = {name: value[:, :4] for name, value in task.state.items()}

    def losses(model, batch):
        logits, _ = model(batch, state)
        entropy = nn.functional.cross_entropy(
            logits.flatten(0, 1), targets[:, :4].flatten(), reduction="none"
        )
        return entropy.view(8, 4)

    with evaluating(model):
        (profile,) = gradient_by_lag(model, inputs[:, :4], losses).profiles
    (place,) = observer.monitor.history[-1].places
    assert place.gradient == pytest.approx([float(profile.norm[k]) for k in place.lags], rel=1e-4)
    # The trainer tells the norm before it was clipped.
    norms = [record["gradient_norm"] for record in session.run.metrics() if "gradient_norm" in record]
    assert [each.gradient_norm for each in observer.monitor.history] == pytest.approx(norms, rel=1e-5)
    assert all(each.clipped for each in observer.monitor.history)
    assert min(norms) > 0.11


def test_a_run_that_goes_on_measures_what_comes_after_its_checkpoint(text, tmp_path):
    session = char_runs.start(text, CharConfig(**SMALL | {"save_every": 4}), tmp_path / "runs")
    observers = [session.monitor(3)]
    observers[0].monitor.share = 100.0
    session.train(observers)
    for step in (8, 12):  # as if killed before they were written
        for path in (session.run.checkpoints / f"step-{step:08}").iterdir():
            path.unlink()
        path.parent.rmdir()
    again = char_runs.resume(session.run.path, {}, text, print)
    observer = again.monitor(3)
    observer.monitor.share = 100.0
    again.train([observer])
    assert [each.step for each in observer.monitor.history] == [5, 6, 9, 12]
    found = Monitor.read(session.run.path / "flow.jsonl")
    assert [each.step for each in found] == [1, 3, 5, 6, 9, 12]
    # The steps that were made twice are the same steps.
    before = {each.step: each for each in observers[0].monitor.history}
    for step in (6, 9, 12):
        one, two = before[step], observer.monitor.history[[5, 6, 9, 12].index(step)]
        assert (one.loss, one.places, one.parameters) == (two.loss, two.places, two.parameters)


def test_what_has_not_begun_can_end():
    observer = MonitorObserver(Monitor(LSTM(3, 4)))
    observer.evaluated({})
    observer.shown(0, "", "")
    observer.ended()


# Lightning


def lightning():
    try:
        import lightning.pytorch as found
    except ModuleNotFoundError:
        found = pytest.importorskip(
            "pytorch_lightning", reason="Lightning is not there: pip install lightning"
        )
    return found


def fit(tmp_path, model, monitor=None, losses=False, **options):
    pl = lightning()

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = model

        def training_step(self, batch, index):
            return self.model(batch["tokens"], batch["labels"])["loss"]

        def configure_optimizers(self):
            return torch.optim.Adam(self.model.parameters(), 0.02)

    loader = torch.utils.data.DataLoader(examples(), batch_size=4)
    added = [callbacks.LightningMonitor(monitor)] if monitor is not None else []
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, callbacks=added, **options,
    )  # fmt: skip
    trainer.fit(Module(), loader)
    return trainer


LIGHTNING = pytest.mark.filterwarnings(
    r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning",
    "ignore:The 'train_dataloader' does not have many workers",  # where there are many cores
)


@LIGHTNING
@pytest.mark.parametrize("limit", [None, 1e-3])
def test_lightning(tmp_path, limit):
    model, plain = made(), made()
    monitor = Monitor(model, 10, share=100.0, log=tmp_path / "flow.jsonl", clip=None if limit else 100.0)
    fit(tmp_path, model, monitor, gradient_clip_val=limit)
    fit(tmp_path, plain, gradient_clip_val=limit)
    assert_measured(monitor, [1, 10, 20], clipped=limit is not None)
    assert monitor.history[0].gradient_norm > 0.01  # before it was clipped
    assert Monitor.read(tmp_path / "flow.jsonl") == monitor.history
    assert_same_weights(model, plain)


@LIGHTNING
def test_lightning_with_gradients_that_add_up_and_a_loss_of_ones_own(tmp_path):
    def losses(model, batch):
        logits = model(batch["tokens"][:2]).transpose(0, 1)
        targets = batch["labels"][:2].t()
        entropy = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        return entropy.view(targets.shape)

    model = made()
    monitor = Monitor(model, 2, share=100.0, losses=losses)
    trainer = fit(tmp_path, model, monitor, accumulate_grad_batches=3)
    assert trainer.global_step == 8
    assert [each.step for each in monitor.history] == [1, 2, 4, 6, 8]
    assert {(each.of, each.notes, each["layer.l0"].rows) for each in monitor.history} == {("loss", (), 2)}


@LIGHTNING
def test_lightning_stops_with_an_error(tmp_path):
    class Fails(Model):
        def forward(self, tokens, labels=None):
            raise ZeroDivisionError

    model = Fails()
    monitor = Monitor(model)
    with pytest.raises(ZeroDivisionError):
        fit(tmp_path, model, monitor)
    assert not monitor.runs


# Hugging Face


def trainer_of(tmp_path, model, monitor=None, **options):
    transformers = pytest.importorskip("transformers", reason="pip install 'transformers[torch]'")
    pytest.importorskip("accelerate", reason="pip install 'transformers[torch]'")
    options = {"max_steps": 24, "save_strategy": "no"} | options
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path / "out"), report_to="none", use_cpu=True, disable_tqdm=True,
        learning_rate=0.02, per_device_train_batch_size=4, logging_strategy="no", remove_unused_columns=False,
        dataloader_pin_memory=False, **options,
    )  # fmt: skip
    added = [callbacks.HuggingFaceMonitor(monitor)] if monitor is not None else []
    return transformers.Trainer(model, arguments, train_dataset=examples(), callbacks=added)


@pytest.mark.parametrize("limit", [1e-3, 100.0])
def test_hugging_face(tmp_path, limit, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model, plain = made(), made()
    monitor = Monitor(model, 10, share=100.0, log=tmp_path / "flow.jsonl")
    trainer_of(tmp_path, model, monitor, max_grad_norm=limit).train()
    trainer_of(tmp_path, plain, max_grad_norm=limit).train()
    assert_measured(monitor, [1, 10, 20], clipped=limit < 1)
    assert Monitor.read(tmp_path / "flow.jsonl") == monitor.history
    assert not model._forward_hooks
    assert_same_weights(model, plain)


def test_hugging_face_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = tmp_path / "flow.jsonl"
    model = made()
    trainer_of(
        tmp_path,
        model,
        Monitor(model, 4, share=100.0, log=path),
        save_strategy="steps",
        save_steps=6,
        max_steps=8,
    ).train()
    assert [each.step for each in Monitor.read(path)] == [1, 4, 8]
    model = made()
    trainer = trainer_of(tmp_path, model, Monitor(model, 4, share=100.0, log=path), max_steps=12)
    trainer.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-6"))
    assert [each.step for each in Monitor.read(path)] == [1, 4, 7, 8, 12]


# Without them


def test_neither_is_imported_before_it_is_asked_for():
    code = (
        "import sys, unrolled.flow, unrolled.flow.callbacks\n"
        "theirs = {'lightning', 'pytorch_lightning', 'transformers', 'tensorboard'}\n"
        "print([name for name in sys.modules if name.split('.')[0] in theirs])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


@pytest.mark.parametrize(
    ("name", "needs", "modules"),
    [
        ("LightningMonitor", "pip install lightning", ("lightning", "pytorch_lightning.callbacks")),
        ("HuggingFaceMonitor", "pip install 'transformers", ("transformers",)),
    ],
)
def test_without_their_library_they_say_what_to_install(monkeypatch, name, needs, modules):
    for each in modules:
        monkeypatch.setitem(sys.modules, each, None)
    for each, _ in callbacks.ADAPTERS.values():
        monkeypatch.delitem(sys.modules, each, raising=False)
    with pytest.raises(InputError, match=needs):
        getattr(callbacks, name)
    with pytest.raises(AttributeError, match="Nothing"):
        _ = callbacks.Nothing
