"""The page about gradient flow."""

import json
import re
import shutil

import pytest
import torch
from torch import nn

from unrolled import GRU, LSTM, InputError
from unrolled.flow import report


class Tagger(nn.Module):
    """Two layers that read both ways, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = LSTM(3, 6, num_layers=2, bidirectional=True), nn.Linear(12, 4)

    def forward(self, x):
        return self.head(self.layer(x)[0])


def batch_of(T: int = 24, B: int = 3):
    torch.manual_seed(0)
    return torch.randn(T, B, 3), torch.randint(4, (T, B))


def test_it_has_the_verdict_and_a_figure_for_every_layer_and_direction():
    torch.manual_seed(0)
    found = report(Tagger(), batch_of())
    places = ["layer.l0", "layer.l0_reverse", "layer.l1", "layer.l1_reverse"]
    assert [place.name for place in found.places] == places
    html = found.html()
    for place in places:
        for title in ("Every step", "Many steps together", "Saturated gates", "Sizes of states"):
            assert f"{title}: {place}" in html
    assert html.index("Findings") < html.index("The gradient of the last loss, by lag")
    for each in found.diagnosis.findings:
        assert each.level in html
    assert not re.search(r'(?:src|href)="(?!#|data:)', html)
    json.dumps(found.to_dict(), allow_nan=False)


def test_it_shows_what_was_measured_in_training():
    history = [{"step": k, "loss": 2.0 / (1 + k), "gradient_norm": 0.5} for k in range(30)]
    html = report(GRU(3, 4), batch_of()[0], history=history, clip=1.0).html()
    assert "Norm of the gradient" in html
    assert ">Loss<" in html
    assert "Norm of the gradient" not in report(GRU(3, 4), batch_of()[0]).html()


def test_a_network_that_is_not_finite_has_a_report_that_says_so():
    torch.manual_seed(0)
    layer = GRU(3, 4)
    with torch.no_grad():
        layer.weight_hh_l0[0, 0] = float("nan")
    found = report(layer, batch_of()[0])
    assert "nan" in found.diagnosis
    html = found.html()
    assert "could not be told" in html
    assert "NaN" not in json.dumps(found.to_dict(), allow_nan=False)


def test_somebody_may_stop_it(monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("unrolled.flow.reports.step_spectra", stop)
    found = report(GRU(3, 4), batch_of()[0])
    assert found.by_lag is not None
    assert not found.steps
    assert "stopped before all Jacobians were done" in found.html()


def test_what_it_measures_is_told():
    said = []
    report(GRU(3, 4), batch_of()[0], say=said.append)
    assert said[0] == "running the model"
    assert any("Jacobians" in each for each in said)


def test_a_model_without_recurrent_layers_has_no_report():
    with pytest.raises(InputError, match="no recurrent layer"):
        report(nn.Linear(3, 3), batch_of()[0])


def test_the_page_in_a_browser(tmp_path):
    """No message, no request, and every figure there, on a phone too."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    browser_path = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if browser_path is None:
        pytest.skip("needs a browser: chromium")
    page_path = tmp_path / "flow.html"
    report(Tagger(), batch_of(), page_path)
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        for width in (360, 1400):
            view = browser.new_page(viewport={"width": width, "height": 800})
            messages, requests = [], []
            view.on("console", lambda m, kept=messages: kept.append(m.text))
            view.on("pageerror", lambda e, kept=messages: kept.append(str(e)))
            view.on("request", lambda r, kept=requests: kept.append(r.url))
            view.goto(page_path.as_uri())
            assert not messages
            assert all(url.startswith(("file:", "data:")) for url in requests)
            assert view.locator("figure").count() > 12
            assert view.evaluate("document.documentElement.scrollWidth") <= width
        browser.close()
