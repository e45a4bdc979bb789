"""However a sequence is unrolled, its gradient is that of one tape, or what truncation says."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as distributed
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cases import assert_same, one_line
from unrolled import GRU, LSTM, InputError, Recurrent
from unrolled.data import Segments, inputs_and_targets
from unrolled.nn.stack import RecurrentStack
from unrolled.unroll import Checkpointed, Full, Truncated, through_time
from unrolled.unroll.policies import Policy, bytes_of

V, H, B, T, CHUNK = 7, 6, 3, 20, 3

LAYERS: dict[str, Callable[..., RecurrentStack]] = {
    "LSTM": lambda **k: LSTM(4, H, 2, dropout=0.3, recurrent_dropout=0.2, weight_dropout=0.1, **k),
    "GRU": lambda **k: GRU(4, H, 2, zoneout=0.2, dropout=0.4, variational=True, **k),
    "layer_norm_lstm": lambda **k: Recurrent("layer_norm_lstm", 4, H, learn_initial=True, **k),
    "mut1": lambda **k: Recurrent("mut1", 4, H, norm="rms", backend="reference", **k),
}
layers = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)

POLICIES = {
    "every": Checkpointed(every=1),
    "every two": Checkpointed(every=2),
    "all at once": Checkpointed(every=100),
    "much": Checkpointed(memory="1GB"),
    "some": Checkpointed(memory="70KB"),
    "little": Checkpointed(memory=32_000),
    "on disk": Checkpointed(memory=31_000, disk="1MB"),
}
policies = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)


class Model(nn.Module):
    """A character model whose step has everything in it."""

    def __init__(self, layer: RecurrentStack) -> None:
        super().__init__()
        self.embedding = nn.Embedding(V, 4, dtype=layer.dtype)
        self.layer = layer
        self.head = nn.Linear(H, V, dtype=layer.dtype)
        self.runs = 0
        self.count = True

    def forward(self, chunk: tuple[Tensor, Tensor], state: Any) -> tuple[Tensor, Any]:
        self.runs += self.count
        tokens, targets = chunk
        carried, masks = state
        y, carried = self.layer(self.embedding(tokens), carried, masks=masks)
        loss = F.cross_entropy(self.head(y).flatten(0, 1), targets.flatten(), reduction="sum")
        return loss, (carried, masks)


def chunks(steps: int = CHUNK) -> list[tuple[Tensor, Tensor]]:
    tokens = torch.randint(V, (T + 1, B), generator=torch.Generator().manual_seed(3))
    return [(tokens[t : t + steps], tokens[t + 1 : t + 1 + steps][: T - t]) for t in range(0, T, steps)][:-1]


def model_of(make: Callable[..., RecurrentStack], dtype: torch.dtype = torch.float64) -> Model:
    torch.manual_seed(1)
    return Model(make(dtype=dtype))


def start_of(model: Model) -> Any:
    """A state to begin from that learns, and the masks of some sequences."""
    torch.manual_seed(2)
    carried = model.layer.step(torch.zeros(B, 4, dtype=model.layer.dtype))[1]
    given = torch.utils._pytree.tree_map(lambda t: torch.randn_like(t).requires_grad_(), carried)
    return given, model.layer.masks(torch.Generator().manual_seed(4))


def taught(model: Model, policy: Policy, step: Callable | None = None) -> dict[str, Tensor]:
    """The loss, the last state, and all gradients, of the loss and of something after it."""
    state = start_of(model)
    loss, (end, _) = through_time(model if step is None else step, chunks(), state, bptt=policy)
    ends = torch.utils._pytree.tree_leaves(end)
    after = sum((value.square().sum() for value in ends), torch.zeros(())) if ends[0].requires_grad else 0
    model.zero_grad()
    (2 * loss + after).backward()
    found = {"loss": loss.detach()} | {f"end {k}": value.detach() for k, value in enumerate(ends)}
    found |= {f"d {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    return found | {f"d start {k}": t.grad for k, t in enumerate(torch.utils._pytree.tree_leaves(state[0]))}


@policies
@layers
def test_gradients_are_those_of_one_tape(make: Callable, policy: Checkpointed) -> None:
    """With dropout, zoneout and DropConnect replayed, and torch's generator where it would be."""
    model = model_of(make)
    torch.manual_seed(5)
    expected, after = taught(model, Full()), torch.rand(4)
    torch.manual_seed(5)
    assert_same(taught(model, policy), expected, 1e-12)
    assert torch.equal(torch.rand(4), after)


@layers
def test_in_single_precision_too(make: Callable) -> None:
    model = model_of(make, torch.float32)
    assert_same(taught(model, POLICIES["some"]), taught(model, Full()), 1e-5)


class Watched(Segments):
    """Knows which segments were asked for, and which are still there."""

    def __getitem__(self, k: int) -> Any:
        segment = super().__getitem__(k)
        self.asked = [*getattr(self, "asked", []), k]
        self.there = [r for r in [*getattr(self, "there", []), weakref.ref(segment[0])] if r() is not None]
        self.most = max(getattr(self, "most", 0), len(self.there))
        return segment


@pytest.mark.parametrize("policy", [Full(), Truncated(2, 3), *POLICIES.values()])
def test_segments_of_arrays_are_taken_as_a_list_of_them_is(policy: Policy) -> None:
    """And `Checkpointed` asks for each when it runs, and again when it runs again, and holds few."""
    model = model_of(LAYERS["GRU"])
    tokens = torch.randint(V, (T + 1, B), generator=torch.Generator().manual_seed(3)).numpy()
    lazy = Watched(*inputs_and_targets(tokens), steps=CHUNK)

    def gradients(segments: Any) -> dict[str, Tensor]:
        loss, _ = through_time(model, segments, start_of(model), bptt=policy)
        model.zero_grad()
        loss.backward()
        return {"loss": loss.detach()} | {name: p.grad for name, p in model.named_parameters()}

    torch.manual_seed(5)
    found = gradients(lazy)
    torch.manual_seed(5)
    assert_same(found, gradients([*Segments(*inputs_and_targets(tokens), steps=CHUNK)]), 1e-12)
    assert set(lazy.asked) == set(range(len(lazy)))
    if policy == Checkpointed(every=1):
        assert lazy.asked[-1] == 0
        assert lazy.most <= 2


def test_one_tape_is_the_whole_sequence_at_once() -> None:
    model = model_of(LAYERS["layer_norm_lstm"])
    expected = taught(model, Full())
    state = start_of(model)
    whole = tuple(torch.cat(each) for each in zip(*chunks(), strict=True))
    loss, (end, _) = model(whole, state)
    model.zero_grad()
    (2 * loss + sum(value.square().sum() for value in end.values())).backward()
    assert_same({"loss": loss.detach()}, {"loss": expected["loss"]}, 1e-12)
    for name, p in model.named_parameters():
        if p.grad is not None:
            assert_same({name: p.grad}, {name: expected[f"d {name}"]}, 1e-11)


def test_a_budget_decides_how_often_segments_run() -> None:
    """Once for its tape; once more where there is no room for all; more often only where memory is short."""
    model = model_of(LAYERS["LSTM"])
    N = len(chunks())
    counts = {}
    for name, policy in POLICIES.items():
        model.runs = 0
        taught(model, policy)
        counts[name] = model.runs
    assert counts["all at once"] == N
    assert counts["every"] == 2 * N - 1
    assert counts["much"] == N
    assert N < counts["some"] < 2 * N < counts["little"] + 2


@pytest.mark.parametrize(("k1", "k2"), [(1, 1), (2, 2), (2, 5), (3, 1), (2, 100), (6, 6)])
@pytest.mark.parametrize("name", ["layer_norm_lstm", "mut1"])
def test_truncation_by_its_definition(name: str, k1: int, k2: int) -> None:
    """Each loss once, from the end of its window, through at most k2 segments."""
    model = model_of(LAYERS[name])
    found = taught(model, Truncated(k1, k2))
    model.zero_grad()
    parts, states = chunks(), [start_of(model)]
    with torch.no_grad():
        for part in parts:
            states.append(model(part, states[-1])[1])
    start = torch.utils._pytree.tree_leaves(states[0][0])
    windows = [*range(k1, len(parts) + 1, k1)]
    windows += [len(parts)] if windows[-1] < len(parts) else []
    for window, end in enumerate(windows):
        first = max(end - k2, 0)
        state, total = states[first], 0
        for number in range(first, end):
            loss, state = model(parts[number], state)
            total = total + 2 * loss * (number >= window * k1)
        total.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert_same(gradients, {name: found[f"d {name}"] for name in gradients}, 1e-12)
    for k, tensor in enumerate(start):
        expected = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
        reached = found[f"d start {k}"]
        assert (reached is None) == (tensor.grad is None)
        assert_same({"start": expected if reached is None else reached}, {"start": expected}, 1e-12)


def test_hooks_fire_once() -> None:
    model = model_of(LAYERS["LSTM"])
    fired = []
    for name, p in model.named_parameters():
        p.register_post_accumulate_grad_hook(lambda p, name=name: fired.append(name))
    taught(model, Checkpointed(every=2))
    assert sorted(fired) == sorted(name for name, _ in model.named_parameters())


def test_it_works_under_ddp() -> None:
    """Its hooks see each gradient once, whole."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        expected = taught(model_of(LAYERS["LSTM"]), Full())
        inner = model_of(LAYERS["LSTM"])
        model = DistributedDataParallel(inner)
        reduced = []

        def hook(_: None, bucket: distributed.GradBucket) -> torch.futures.Future[Tensor]:
            reduced.append(bucket.buffer().numel())
            future: torch.futures.Future[Tensor] = torch.futures.Future()
            future.set_result(bucket.buffer())
            return future

        model.register_comm_hook(None, hook)
        assert_same(taught(inner, Checkpointed(every=2), model), expected, 1e-12)
        assert sum(reduced) == sum(p.numel() for p in inner.parameters())
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize("policy", [Checkpointed(every=2), Checkpointed(memory="60KB")], ids=str)
def test_a_compiled_step(policy: Checkpointed) -> None:
    """Nor is it spoilt for torch's compiler by a policy."""
    model = model_of(LAYERS["layer_norm_lstm"])
    step = torch.compile(model.forward, backend="aot_eager", fullgraph=True)
    model.count = False
    assert_same(taught(model, policy, step), taught(model, Full()), 1e-12)


def test_without_gradients_it_only_runs() -> None:
    model = model_of(LAYERS["LSTM"])
    with torch.no_grad():
        for policy in (Full(), Checkpointed(memory=1), Truncated(2, 3)):
            model.runs = 0
            loss, _ = through_time(model, chunks(), start_of(model), bptt=policy)
            assert model.runs == len(chunks())
            assert not loss.requires_grad


def test_autocast_is_as_it_was() -> None:
    weight = nn.Parameter(torch.randn(4, 4))
    kinds = []

    def step(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.tanh(x @ weight + h)
        kinds.append((x @ weight).dtype)
        return y.float().sum(), y.float()

    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = through_time(step, torch.randn(6, 2, 4), torch.zeros(2, 4), bptt=Checkpointed(every=2))
    loss.backward()
    assert {*kinds} == {torch.bfloat16}


# what is refused

weight = torch.randn(4, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)


def good(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    h = torch.tanh(x @ weight + h)
    return h.sum(), h


def noisy(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    noisy.seed += 1
    return (h @ weight).sum() * noisy.seed, good(x, h)[1]


noisy.seed = 0
outside = weight * 2
growing = {"now": 4}


REFUSED: dict[str, tuple[Callable, str]] = {
    "no segments": (lambda: run(good, []), "there are no segments"),
    "no pair": (
        lambda: run(lambda x, h: h),
        "for segment 0, returned a Tensor, expected a pair (loss, state)",
    ),
    "no number": (
        lambda: run(lambda x, h: (h, h)),
        "returned a loss torch.float32 (2, 4), expected a tensor",
    ),
    "no tensor": (lambda: run(lambda x, h: (1.0, h)), "returned a loss 1.0, expected a tensor of one number"),
    "another shape": (
        lambda: run(lambda x, h: (h.sum(), h[:1])),
        "changed the state from torch.float32 (2, 4) to torch.float32 (1, 4)",
    ),
    "another structure": (
        lambda: run(lambda x, h: (h.sum(), (h, h))),
        "changed the state from torch.float32 (2, 4) to (torch.float32 (2, 4), torch.float32 (2, 4))",
    ),
    "another loss": (lambda: run(noisy), "when it ran again: what a step computes may depend on nothing but"),
    "from outside": (
        lambda: run(lambda x, h: ((h @ outside).sum(), h)),
        "computed outside of it (MulBackward0), and would go back through that once a segment",
    ),
    "no policy": (lambda: run(good, bptt="full"), "bptt is a str, expected Full, Truncated or Checkpointed"),
    "k1 beyond": (lambda: run(good, bptt=Truncated(9, 9)), "k1 is 9, but there are 6 segments"),
    "k1": (lambda: Truncated(0, 2), "k1 must be a whole number of at least 1, got 0"),
    "k2": (lambda: Truncated(2, 0), "k2 must be a whole number of at least 1, got 0"),
    "half": (lambda: Truncated(1.5, 2), "k1 must be a whole number of at least 1, got 1.5"),
    "every": (lambda: Checkpointed(every=0), "every must be a whole number of at least 1, got 0"),
    "neither": (lambda: Checkpointed(), "takes memory, as in '200MB', or every, a number of segments"),
    "both": (lambda: Checkpointed(memory=1, every=1), "takes memory, as in '200MB', or every"),
    "unreadable": (
        lambda: Checkpointed(memory="many"),
        "'many' is no amount of memory; write it as in 200MB",
    ),
    "negative": (lambda: Checkpointed(memory="-5MB"), "'-5MB' is no amount of memory"),
    "nothing": (lambda: Checkpointed(memory="0MB"), "memory must be more than nothing, got '0MB'"),
    "nowhere": (
        lambda: Checkpointed(memory=1, disk=1, folder="/nowhere"),
        "folder goes with disk, and must be there: '/nowhere'",
    ),
    "disk alone": (lambda: Checkpointed(every=1, disk="1GB"), "disk goes with memory"),
    "ends early": (lambda: run(good, Ending(6)), "the segments end after 3, but there should be 6"),
    "another width": (
        lambda: run(lambda x, h: (LSTM(4, 4)(x[None])[0].sum(), h), [torch.randn(2, w) for w in (4, 4, 5)]),
        "segment 2: x has 5 features in its last axis, expected 4",
    ),
    "no room on disk": (
        lambda: run(good, bptt=Checkpointed(memory=300, disk=10)),
        "10B on disk hold no state of",
    ),
    "too little": (
        lambda: run(good, bptt=Checkpointed(memory=100)),
        "a budget of 100B is too small: it takes",
    ),
}


class Ending(list):
    """Fewer than it says."""

    def __init__(self, count: int) -> None:
        super().__init__(torch.randn(3, 2, 4))
        self.count = count

    def __len__(self) -> int:
        return self.count


def run(step: Callable, segments: Any = None, bptt: Any = None) -> None:
    segments = torch.randn(6, 2, 4) if segments is None else segments
    loss, _ = through_time(step, segments, torch.ones(2, 4), bptt=bptt or Checkpointed(every=2))
    loss.backward()


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_is_named(name: str) -> None:
    wrong, message = REFUSED[name]
    with pytest.raises(InputError) as caught:
        wrong()
    assert message in one_line(caught.value)


def test_a_gradient_can_be_had_once() -> None:
    loss, _ = through_time(good, torch.randn(6, 2, 4), torch.ones(2, 4), bptt=Checkpointed(every=2))
    loss.backward(retain_graph=True)
    with pytest.raises(InputError, match="can be had once"):
        loss.backward()


@policies
def test_what_a_gradient_needed_is_let_go_of_with_the_loss(policy: Checkpointed) -> None:
    """At once, without a collector of cycles, and while the state behind is kept."""
    model, seen = model_of(LAYERS["LSTM"]), []

    class Held:
        """In the history of every segment."""

    class Watched(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, loss: Tensor) -> Tensor:
            ctx.held, result = Held(), loss.clone()
            ctx.save_for_backward(result)
            seen.append(weakref.ref(ctx.held))
            return result

        @staticmethod
        def backward(ctx: Any, d_loss: Tensor) -> Tensor:
            return d_loss

    def step(chunk: Any, state: Any) -> tuple[Tensor, Any]:
        loss, state = model(chunk, state)
        return Watched.apply(loss), state

    gc.disable()
    try:
        loss, end = through_time(step, chunks(), start_of(model), bptt=policy)
        run = weakref.ref(loss.grad_fn.run)
        loss.backward()
        end = torch.utils._pytree.tree_map(lambda leaf: getattr(leaf, "detach", lambda: leaf)(), end)
        del loss
        assert run() is None
        assert len(seen) >= len(chunks())
        assert not any(held() for held in seen)
    finally:
        gc.enable()
    assert end


def test_a_parameter_that_appears_later_is_named() -> None:
    late = nn.Parameter(torch.randn(3))

    def step(number: int, h: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(h @ weight)
        return h.sum() + (late.sum() if number == 2 else 0), h

    loss, _ = through_time(step, range(6), torch.ones(2, 4), bptt=Checkpointed(every=2))
    with pytest.raises(InputError, match=r"segment 2 depends on a parameter of shape \(3,\)"):
        loss.backward()


@pytest.mark.parametrize(
    ("text", "size"),
    [("200MB", 200 * 10**6), ("1.5 GB", 1_500_000_000), ("64KiB", 65536), ("2GiB", 2 << 30), ("7", 7),
     (12, 12), ("3k", 3000), ("1TB", 10**12), ("12B", 12)],
)  # fmt: skip
def test_amounts_of_memory(text: str | int, size: int) -> None:
    assert bytes_of(text) == size
