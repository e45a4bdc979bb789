"""Variants of a network beside each other."""

import json
import math

import pytest
import torch
from matplotlib.colors import same_color
from matplotlib.figure import Figure

from unrolled import LSTM, RNN, InputError, Recurrent, flow

T, B, D, H = 30, 3, 4, 8
X = torch.randn(T, B, D, generator=torch.Generator().manual_seed(0))


def networks() -> dict[str, torch.nn.Module]:
    return {
        "plain": RNN(D, H),
        "layer norm": RNN(D, H, norm="layer"),
        "spectral norm": RNN(D, H, weight_norm="spectral:0.9"),
        "orthogonal": Recurrent("rnn", D, H, init={"*.h": "orthogonal"}),
    }


def test_a_comparison_has_what_single_measurements_find() -> None:
    models = networks()
    found = flow.compare(models, X, steps=10, sequences=2)
    assert [each.name for each in found.variants] == [*models]
    for name, model in models.items():
        profile = flow.gradient_by_lag(model, X)["l0"]
        assert torch.equal(found[name].gradient.norm, profile.norm)
        assert found[name].gradient.horizon(0.5) == profile.horizon(0.5)
        torch.testing.assert_close(found[name].left * profile.norm[0], profile.norm)
        spectra = flow.step_spectra(model, X[:, :2], every=3)
        torch.testing.assert_close(found[name].spectra.largest, spectra.largest)
        torch.testing.assert_close(found[name].spectra.radius, spectra.radius)
        assert found[name].spectra.largest.shape == (10, 2)


def test_norms_and_initialisers_do_to_the_gradient_what_is_known_of_them() -> None:
    """An orthogonal start reaches further back than a small one, and spectral norm bounds every step."""
    small, x = {"*.h": "normal:0.02"}, 0.1 * X
    made = {
        "small": Recurrent("rnn", D, H, init=small),
        "orthogonal": Recurrent("rnn", D, H, init={"*.h": "orthogonal"}),
        "radius": Recurrent("rnn", D, H, init={"*.h": "radius:0.95"}),
        "large": Recurrent("rnn", D, H, init={"*.h": "orthogonal:3"}),
        "bounded": Recurrent("rnn", D, H, init={"*.h": "orthogonal:3"}, weight_norm="spectral:0.5"),
    }
    found = flow.compare(made, x)
    half = {name: found[name].gradient.horizon(0.5) or math.inf for name in made}
    assert half["small"] == 1
    assert half["orthogonal"] > 10
    assert 1 < half["radius"] <= T
    assert float(found["large"].spectra.largest.max()) > 2
    assert float(found["bounded"].spectra.largest.max()) <= 0.5 + 1e-6


def test_a_comparison_is_told_drawn_and_written_down() -> None:
    found = flow.compare(networks(), X)
    lines = repr(found).splitlines()
    assert lines[0] == "l0: gradient by lag over 30 steps, and Jacobians of single steps"
    assert lines[1].split()[:4] == ["half", "at", "1%", "at"]
    assert [line.partition("  ")[0] for line in lines[2:]] == [*networks()]
    assert lines[4].split()[2] == str(found["spectral norm"].gradient.horizon(0.5) or "> 30").split()[0]
    ax = found.plot()
    assert len(ax.figure.axes) == 2
    names = ax.figure.axes[1].get_yticklabels()
    assert [text.get_text() for text in names] == [*networks()]
    (curve, *_) = ax.lines
    assert same_color(names[0].get_color(), curve.get_color())
    torch.testing.assert_close(torch.tensor(curve.get_ydata()), found["plain"].left)
    alone = Figure().add_subplot()
    assert found.plot(alone) is alone
    assert len(alone.figure.axes) == 1
    assert [text.get_text() for text in alone.get_legend().get_texts()] == [*networks()]
    body = json.loads(json.dumps(found.to_dict()))
    assert [each["name"] for each in body["variants"]] == [*networks()]
    assert len(body["variants"][0]["gradient"]["norm"]) == T + 1
    assert repr(found["plain"]).startswith("plain\nl0: gradient")
    assert found["plain"].plot().lines
    assert "<img" in found._repr_html_()


def test_layers_and_steps_can_be_chosen() -> None:
    models = {"a": LSTM(D, H, 2), "b": LSTM(D, 5, 2, weight_norm="weight")}
    found = flow.compare(models, X, place="l1", at=10)
    assert found["b"].gradient.place == "l1"
    expected = flow.gradient_by_lag(models["b"], X, at=10)["l1"]
    assert torch.equal(found["b"].gradient.norm, expected.norm)
    targets = torch.randint(H, (T, B))
    with_losses = flow.compare(
        {"a": models["a"]}, X, lambda m, x: torch.nn.functional.cross_entropy(
            m(x)[0].flatten(0, 1), targets.flatten(), reduction="none").view(T, B)
    )  # fmt: skip
    assert not torch.equal(with_losses["a"].gradient.norm, found["a"].gradient.norm[:1])


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (dict, {}, "compare takes networks by name, as in"),
        (lambda: [RNN(D, H)], {}, "compare takes networks by name"),
        (lambda: {"a": torch.nn.Linear(D, H)}, {}, "Linear has no recurrent layer of unrolled's"),
        (lambda: {"a": RNN(D, H)}, {"place": "l1"}, "no layer 'l1' ran; there are l0"),
        (lambda: {"a": RNN(D, H)}, {"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        (lambda: {"a": RNN(D, H)}, {"sequences": 0}, "sequences must be a whole number of at least 1"),
    ],
)
def test_what_does_not_fit_is_named(make, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        flow.compare(make(), X, **options)


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(InputError, match="drawing needs matplotlib"):
        flow.compare({"a": RNN(D, H)}, X).plot()
