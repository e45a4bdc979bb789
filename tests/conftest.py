"""One thread, the same random numbers for every test, and nothing in the caches of whoever runs them."""

import gc
import os
from collections.abc import Callable, Generator, Iterator

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch comes: threads of tests share cores

import torch

from unrolled.compile import loop, plan

Pieces = Callable[..., None]


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One for all workers of a run, so that a kernel is compiled by the first that needs it."""
    base = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(
            "UNROLLED_CACHE", str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache")
        )
        yield


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """What a test module draws when it is imported would depend on the modules before it."""
    before = torch.get_rng_state()
    report = yield
    if isinstance(collector, pytest.Module) and not torch.equal(before, torch.get_rng_state()):
        raise pytest.UsageError(f"{collector.nodeid} draws random numbers before any test runs")
    return report


def pytest_collection_finish() -> None:
    """The collector of garbage need not go through thousands of tests again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    torch.manual_seed(0)


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pieces]:
    """Plan anew from here on: chunks of at least so many rows, work below which one thread is enough, how
    many threads there are, and rows for each below which they share units."""
    threads = torch.get_num_threads()

    def forget() -> None:
        for each in loop._loops.values():  # kernels stay, for none depends on these
            each.prepared.clear()

    def set_to(
        chunk: int = plan.CHUNK, small: int = plan.SMALL, threads: int = 1, few: int = plan.FEW
    ) -> None:
        monkeypatch.setattr(plan, "CHUNK", chunk)
        monkeypatch.setattr(plan, "SMALL", small)
        monkeypatch.setattr(plan, "FEW", few)
        forget()
        torch.set_num_threads(threads)

    yield set_to
    forget()
    torch.set_num_threads(threads)
