"""The cross-entropy of words is torch's, with its gradients, however few logits are there at once."""

import pytest
import torch
import torch.nn.functional as F

from cases import one_line
from unrolled.errors import InputError
from unrolled.nn import word_loss as module
from unrolled.nn.word_loss import word_loss

N, E, V = 37, 6, 23


def case(dtype=torch.float64):
    torch.manual_seed(0)
    head = torch.nn.Linear(E, V, dtype=dtype)
    return torch.randn(N, E, dtype=dtype, requires_grad=True), head, torch.randint(V, (N,))


def gradients(loss, features, head):
    found = torch.autograd.grad(loss, [features, head.weight, head.bias])
    return dict(zip(("features", "weight", "bias"), found, strict=True))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("at_once", [1, 5 * V, 1 << 20])
def test_loss_and_gradients_are_those_of_torch(smoothing, at_once, monkeypatch):
    monkeypatch.setattr(module, "AT_ONCE", at_once)
    features, head, targets = case()
    found = word_loss(features, head, targets, smoothing)
    right = F.cross_entropy(head(features), targets, reduction="sum", label_smoothing=smoothing)
    torch.testing.assert_close(found, right)
    mine, theirs = (gradients(3 * each, features, head) for each in (found, right))
    for name, gradient in theirs.items():
        torch.testing.assert_close(mine[name], gradient, msg=name)


def test_it_is_as_accurate_as_torch_where_logits_are_large():
    features, head, targets = case(torch.float32)
    with torch.no_grad():
        head.weight *= 300
    exact = F.cross_entropy(head.double()(features.double()), targets, reduction="sum", label_smoothing=0.1)
    head.float()
    theirs = F.cross_entropy(head(features), targets, reduction="sum", label_smoothing=0.1)
    mine = word_loss(features, head, targets, 0.1)
    assert abs(mine - exact) <= 4 * max(abs(theirs - exact), 1e-6 * exact)


def test_a_second_pass_back_finds_the_same():
    features, head, targets = case()
    loss = word_loss(features, head, targets, 0.1)
    first, second = (torch.autograd.grad(loss, head.weight, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_without_gradients_none_are_computed():
    features, head, targets = case()
    with torch.no_grad():
        assert not word_loss(features, head, targets).requires_grad
    head.requires_grad_(False)
    (gradient,) = torch.autograd.grad(word_loss(features, head, targets), features)
    right = F.cross_entropy(head(features), targets, reduction="sum")
    torch.testing.assert_close(gradient, torch.autograd.grad(right, features)[0])


def test_no_words_cost_nothing():
    features, head, targets = case()
    loss = word_loss(features[:0], head, targets[:0], 0.1)
    assert loss.item() == 0
    assert not torch.autograd.grad(loss, head.weight)[0].any()


def test_what_does_not_fit_is_refused():
    features, head, targets = case()
    for call, message in (
        (
            lambda: word_loss(features[None], head, targets),
            "features are (N, F) and targets (N,), got (1, 37",
        ),
        (lambda: word_loss(features, head, targets[:3]), "features are (N, F) and targets (N,)"),
        (lambda: word_loss(features, torch.nn.Linear(E, V, bias=False), targets), "the layer that gives"),
    ):
        with pytest.raises(InputError) as caught:
            call()
        assert one_line(caught.value).startswith(message)
