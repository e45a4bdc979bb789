"""Classifiers of pictures: what is learned at which depth, batches, measurements, and what settings mean."""

import math

import pytest
import torch
import torch.nn.functional as F

from unrolled.data.pictures import Pictures, bundled_digits
from unrolled.errors import BudgetError, CellError, InputError
from unrolled.nn.dense import ACTIVATIONS
from unrolled.tasks.digits import DigitsTask
from unrolled.tasks.digits_config import NETWORKS, DigitsConfig
from unrolled.train.optimisers import SCHEDULES

SMALL = {"depth": 3, "width": 12, "growth": 4, "batch": 30, "warmup": 0, "rate": 0.01, "steps": 60}


def blobs(count: int = 300, classes: int = 3, noise: float = 0.4) -> Pictures:
    """Noisy pictures of a few patterns."""
    generator = torch.Generator().manual_seed(1)
    patterns = torch.rand(classes, 4, 4, generator=generator)
    labels = torch.arange(count) % classes
    pixels = patterns[labels] + noise * torch.rand(count, 4, 4, generator=generator)
    return Pictures("blobs", pixels / pixels.max(), labels, classes)


def trained(pictures: Pictures, **settings: object) -> DigitsTask:
    task = DigitsTask(pictures, DigitsConfig(**settings))
    trainer = task.trainer()
    for _ in range(task.config.steps):
        trainer.advance()
    return task


@pytest.mark.parametrize("network", [*NETWORKS, "gru"])
def test_every_network_learns(network):
    settings = SMALL | ({"depth": 1} if network.startswith("conv") else {})
    task = trained(blobs(), network=network, **settings)
    assert task.accuracy().share > 0.9, task.accuracy()
    assert task.baselines["majority"].share < 0.4


@pytest.mark.parametrize(
    ("network", "activation"),
    [
        ("residual", "tanh"), ("residual", "sigmoid"), ("highway", "softplus"), ("highway", "maxout"),
        *[("dense", activation) for activation in ACTIVATIONS],
    ],
)  # fmt: skip
def test_every_activation_learns_through_twenty_layers(network, activation):
    settings = SMALL | {"depth": 20, "activation": activation, "rate": 5e-3}
    assert trained(blobs(), network=network, **settings).accuracy().share > 0.9


@pytest.mark.parametrize(("network", "norm"), [("residual", "layer"), ("dense", "batch"), ("plain", "batch")])
def test_norms_go_into_every_layer(network, norm):
    task = trained(blobs(), network=network, norm=norm, **SMALL)
    assert task.accuracy().share > 0.9
    gains = [name for name, _ in task.model.named_parameters() if "gain" in name]
    assert gains


def test_matrices_of_all_layers_may_be_normalised():
    task = trained(blobs(), network="residual", weight_norm="spectral:0.5", **SMALL)
    assert task.accuracy().share > 0.9
    matrices = task.model.body.stacked()["f.h"].detach()
    assert (torch.linalg.matrix_norm(matrices, 2) <= 0.5001).all()
    assert len(task.gradient_by_layer()) == 3


def test_at_a_depth_of_300_residual_and_highway_learn_and_plain_does_not():
    settings = SMALL | {"depth": 300, "rate": 3e-3}
    shares = {name: trained(blobs(), network=name, **settings).accuracy().share for name in NETWORKS[:3]}
    assert shares["plain"] < 0.45
    assert shares["residual"] > 0.9
    assert shares["highway"] > 0.9


def test_a_highway_lets_in_one_part_in_its_depth_of_every_layer_and_what_is_said_goes_before():
    def bias(network: str) -> float:
        task = DigitsTask(blobs(), DigitsConfig(network=network, depth=50))
        return task.model.body.stacked()["b.bias"].mean().item()

    assert torch.sigmoid(torch.tensor(bias("highway"))).item() == pytest.approx(1 / 50, rel=1e-3)
    assert bias("highway(carry_bias=2)") == -2


def test_a_residual_branch_begins_with_one_part_in_the_depth():
    for network, last in (("residual", "f.h"), ("residual(products=two)", "g.f")):
        task = DigitsTask(blobs(), DigitsConfig(network=network, depth=40, width=64))
        weights = task.model.body.stacked()
        assert weights[last].std().item() == pytest.approx(math.sqrt(2 / 64) / 40, rel=0.02)
        task = DigitsTask(blobs(), DigitsConfig(network=network, depth=4, init=(f"{last}=0.5",)))
        assert (task.model.body.stacked()[last] == 0.5).all()


def test_a_pass_reads_no_picture_twice_and_each_pass_has_an_order_of_its_own():
    pictures = blobs(100)
    pictures.pixels[:, 0, 0] = torch.arange(100) / 100
    task = DigitsTask(pictures, DigitsConfig(batch=32))
    read = [task.batch(step)[0][:, 0, 0].tolist() for step in range(4)]
    first, second = (set(read[2 * k] + read[2 * k + 1]) for k in (0, 1))
    assert [len(batch) for batch in read] == [32] * 4
    assert len(first) == len(second) == 64
    assert read[0] != read[2]
    assert task.batch(1)[0][:, 0, 0].tolist() == read[1]  # whenever it is asked for
    held_out = set(task.test.pixels[:, 0, 0].tolist())
    assert not held_out & (first | second)
    other = DigitsTask(pictures, DigitsConfig(batch=32, seed=1))
    assert other.batch(0)[0][:, 0, 0].tolist() != read[0]
    assert set(other.test.pixels[:, 0, 0].tolist()) == held_out  # which the seed of the training leaves alone
    apart = DigitsTask(pictures, DigitsConfig(split=1))
    assert set(apart.test.pixels[:, 0, 0].tolist()) != held_out


def test_a_batch_larger_than_all_pictures_is_all_of_them():
    task = DigitsTask(blobs(60), DigitsConfig(batch=1000, **{k: SMALL[k] for k in ("depth", "width")}))
    assert len(task.batch(3)[1]) == len(task.train) == 48
    assert task.gradients(0)[1]["pictures"] == 48


@pytest.mark.parametrize("network", NETWORKS)
def test_the_gradient_by_layer_is_that_of_the_parameters_of_each(network):
    task = DigitsTask(blobs(), DigitsConfig(network=network, **SMALL | {"dtype": "float64"}))
    buffers = {name: value.clone() for name, value in task.model.named_buffers()}
    found = task.gradient_by_layer()
    for name, value in task.model.named_buffers():
        assert torch.equal(value, buffers[name]), name  # no measurement changes what is measured
    assert all(p.grad is None for p in task.model.parameters())
    F.cross_entropy(task.model(task.train.pixels[:256]), task.train.labels[:256]).backward()
    of_layer: dict[int, float] = {}
    if network in ("plain", "residual", "highway"):
        for p in task.model.body.parameters():
            for layer in range(3):
                of_layer[layer] = of_layer.get(layer, 0.0) + p.grad[layer].square().sum().item()
    else:
        for name, p in task.model.body.named_parameters():
            layer = int(name.split(".")[0].removeprefix("l"))
            of_layer[layer] = of_layer.get(layer, 0.0) + p.grad.square().sum().item()
    assert found == pytest.approx([math.sqrt(of_layer[layer]) for layer in sorted(of_layer)], rel=1e-9)
    said = task.show(0)
    assert f"layer 1 {found[0]:.2g}" in said
    assert f"layer {len(found)} {found[-1]:.2g}" in said
    assert f"first over last {found[0] / found[-1]:.2g}" in said


def test_in_a_budget_of_memory_layers_run_again_and_the_gradient_is_the_same():
    settings = SMALL | {"network": "residual", "depth": 60, "dtype": "float64"}
    whole, again = (DigitsTask(blobs(), DigitsConfig(memory=m, **settings)) for m in (None, "150KB"))
    assert again.model.policy is not None
    for task in (whole, again):
        task.gradients(0)
    for ours, theirs in zip(again.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-14)
    with pytest.raises(BudgetError, match="takes"):
        DigitsTask(blobs(), DigitsConfig(memory="1KB", **settings)).gradients(0)


def test_weight_decay_is_for_matrices():
    """Where the gradient is 0, AdamW takes its part of every matrix and leaves biases alone."""
    config = DigitsConfig(
        weight_decay=0.5, optimiser="adamw", schedule="constant", **SMALL | {"init": ("*.bias=1",)}
    )
    task = DigitsTask(blobs(), config)
    trainer = task.trainer()
    before = {name: p.detach().clone() for name, p in task.model.named_parameters()}
    task.gradients = lambda step: (0.0, {})
    trainer.advance()
    for name, p in task.model.named_parameters():
        factor = 1 - 0.01 * 0.5 if name.endswith(("weight", ".h")) else 1.0
        torch.testing.assert_close(p.detach(), factor * before[name], msg=name)


def test_pixels_are_read_with_mean_0_and_variance_1_of_those_to_train_on():
    task = DigitsTask(blobs(), DigitsConfig(**SMALL))
    seen = []
    task.model.read.register_forward_hook(lambda _, given, out: seen.append(given[0]))
    task.model(task.train.pixels)
    assert seen[0].mean().item() == pytest.approx(0, abs=1e-5)
    assert seen[0].std().item() == pytest.approx(1, abs=1e-5)


def test_pictures_to_test_on_may_come_apart():
    train, test = blobs(90), blobs(40, noise=0.3)
    task = DigitsTask(train, DigitsConfig(**SMALL), test)
    assert (len(task.train), len(task.test)) == (90, 40)
    assert task.source["test_pictures"] == 40


def test_digits_are_learned_better_than_by_a_linear_classifier():
    """A short training of the smallest useful network on the bundled digits."""
    pytest.importorskip("sklearn")
    task = trained(bundled_digits(), network="residual", depth=10, steps=150, rate=2e-3)
    assert task.accuracy().share > 0.95
    assert 0.93 < task.baselines["linear"].share < 0.99
    assert task.baselines["majority"].share == pytest.approx(0.1, abs=0.01)
    assert len(task.test) == 359


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"depth": 0}, "--depth must be a whole number of at least 1, got 0"),
        ({"width": 2_000_000}, "--width must be at most a million"),
        (
            {"activation": "swish"},
            "--activation is one of tanh, relu, sigmoid, softplus, maxout, got 'swish'",
        ),
        ({"schedule": "step"}, f"--schedule is one of {', '.join(SCHEDULES)}"),
        ({"holdout": 1.0}, "--holdout is a share above 0 and below 1"),
        ({"rate": 0.0}, "--rate must be above 0"),
        ({"clip_norm": math.nan}, "--clip-norm must be a finite number from 0"),
        ({"steps": -1}, "--steps cannot be negative"),
        ({"seed": 2**63}, "--seed must be below"),
        ({"network": "dense(growth=3)"}, "--network dense takes no options in brackets"),
        ({"network": "conv-dense", "activation": "tanh"}, "--activation is not for conv-dense"),
        ({"network": "conv-residual", "norm": "layer"}, "--norm is not for conv-residual"),
        ({"network": "dense", "memory": "5MB"}, "--memory is for cells through depth, which dense is not"),
        ({"network": "conv-dense", "weight_norm": "weight"}, "--weight-norm is for cells through depth"),
        ({"memory": "much"}, "'much' is no amount of memory"),
        ({"weight_decay": -1.0}, "--weight-decay must be a number from 0"),
        ({"weight_decay": 0.1, "optimiser": "adamw(weight_decay=1)"}, "give one of them"),
        ({"dtype": "float16"}, "--dtype is one of float32, float64"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings, said):
    with pytest.raises(InputError, match=said):
        DigitsConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"network": "hihgway"}, CellError, "no cell 'hihgway': did you mean 'highway'"),
        ({"network": "highway(carry=1)"}, CellError, "no option 'carry'"),
        ({"network": "gru", "activation": "tanh"}, InputError, "cell 'gru' has no activation to choose"),
        ({"init": ("f.h",)}, InputError, "write PATTERN=INITIALISER"),
        ({"network": "dense", "init": ("f.h=0",)}, InputError, "matches no parameter"),
        ({"norm": "weight"}, InputError, "no norm 'weight'"),
        ({"optimiser": "lion"}, InputError, "no optimiser 'lion'"),
        ({"network": "conv-dense", "depth": 1, "growth": 3}, None, ""),
    ],
)
def test_networks_that_cannot_be_are_named(settings, error, said):
    config = DigitsConfig(**{"depth": 2, **settings})
    if error is None:
        DigitsTask(blobs(), config).trainer()
        return
    with pytest.raises(error, match=said):
        DigitsTask(blobs(), config).trainer()
