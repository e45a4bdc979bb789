"""A run is never overwritten, and its files are whole or not there."""

import errno
import json
import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from unrolled.errors import CheckpointError, InputError
from unrolled.train.files import sync_folder, write_atomically
from unrolled.train.runs import Run, create, open_run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return create(tmp_path / "runs", "lstm")


def strict(text: str) -> Any:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


# Making and opening.


def test_runs_are_never_overwritten(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    names = []
    for value in range(4):
        run = create(root, "lstm")
        run.write_config({"value": value})
        names.append(run.path.name)
    assert names == ["lstm", "lstm-2", "lstm-3", "lstm-4"]
    assert [open_run(root / name).config["value"] for name in names] == [0, 1, 2, 3]
    (root / "file").write_text("mine")
    assert create(root, "file").path.name == "file-2"
    assert (root / "file").read_text() == "mine"


def test_runs_made_at_once_are_all_different(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda _: create(tmp_path / "runs", "gru"), range(40)))
    assert len({run.path for run in runs}) == 40


def test_a_new_run_outlives_a_loss_of_power(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    create(tmp_path, "a")
    assert synced == [str(tmp_path)]


@pytest.mark.parametrize("name", ["a", "LSTM-2", "0.5_x", "v1."])
def test_good_names(tmp_path: Path, name: str) -> None:
    assert create(tmp_path, name).path == tmp_path / name


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "a/b", ".hidden", "-x", "a b", "é", "a\n", "a\0"])
def test_bad_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="letters, digits"):
        create(tmp_path, name)
    assert os.listdir(tmp_path) == []


def test_a_root_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="no/runs: No such file or directory"):
        create(tmp_path / "no" / "runs", "a")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CheckpointError, match="file: File exists"):
        create(tmp_path / "file", "a")
    with pytest.raises(CheckpointError, match="file/runs: Not a directory"):
        create(tmp_path / "file" / "runs", "a")

    def read_only(*args: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "mkdir", read_only)
    with pytest.raises(CheckpointError, match=f"run 'a' in {tmp_path}: Read-only file system"):
        create(tmp_path, "a")


def test_a_run_without_configuration_lists_the_others(tmp_path: Path, run: Run) -> None:
    with pytest.raises(CheckpointError, match=r"a folder that holds config\.json\. No run was found near it"):
        open_run(run.path)
    for name in ("b", "a"):
        create(run.path.parent, name).write_config({})
    for wrong in (run.path.parent, run.path, run.path.parent / "typo"):
        with pytest.raises(CheckpointError) as caught:
            open_run(wrong)
        assert str(caught.value).startswith(f"no run at {wrong}: ")
        assert str(caught.value).endswith(f"Runs found: {run.path.parent}/a, {run.path.parent}/b")
    for _ in range(12):
        create(run.path.parent, "c").write_config({})
    with pytest.raises(CheckpointError, match=r"c-5 and 4 more$"):
        open_run(run.path)


def test_a_bare_name_is_looked_up_under_runs(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run.write_config({"T": 25})
    (tmp_path / "lstm").mkdir()
    assert open_run(Path("lstm")) == Run(Path("runs/lstm"))
    with pytest.raises(CheckpointError, match=r"no run at gru: .* Runs found: runs/lstm$"):
        open_run(Path("gru"))
    Run(tmp_path / "lstm").write_config({})
    assert open_run(Path("lstm")) == Run(Path("lstm"))


# The configuration.


def test_the_configuration_comes_back(run: Run) -> None:
    run.write_config({"name": "é", "clip": math.inf, "sizes": (1, 2)})
    assert run.config == {"name": "é", "clip": None, "sizes": [1, 2]}
    strict((run.path / "config.json").read_text())
    assert run.checkpoints == run.path / "checkpoints"
    assert os.listdir(run.path) == ["config.json"]


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00"])
def test_a_damaged_configuration_is_named(run: Run, text: str) -> None:
    with pytest.raises(CheckpointError, match=r"lstm: config.json is missing"):
        _ = run.config
    (run.path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"lstm: config.json is damaged: ") as caught:
        _ = run.config
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_configuration(
    run: Run, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    run.write_config({"value": 1})

    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(
            f"unrolled.train.files.{'open' if call == 'open' else 'os.' + call}", full, raising=False
        )
        with pytest.raises(CheckpointError, match=r"config\.json: No space left on device"):
            run.write_config({"value": 2})
    assert run.config == {"value": 1}
    assert os.listdir(run.path) == ["config.json"]


def test_a_folder_that_cannot_be_synced_is_still_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails_with(code: int) -> Any:
        def fail(descriptor: int) -> None:
            raise OSError(code, os.strerror(code))

        return fail

    monkeypatch.setattr(os, "fsync", fails_with(errno.EINVAL))
    sync_folder(tmp_path)
    monkeypatch.setattr(os, "fsync", fails_with(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        sync_folder(tmp_path)
    with pytest.raises(CheckpointError, match="Input/output error"):
        write_atomically(tmp_path / "x", b"")


# Metrics.


def test_records_come_back_in_order_as_strict_json(run: Run) -> None:
    assert run.metrics() == []
    run.truncate_metrics(0)
    run.log({"step": 1, "loss": 0.1 + 0.2})
    run.log({"step": 2, "loss": math.nan, "norms": [math.inf, 1.0]})
    assert run.metrics() == [
        {"step": 1, "loss": 0.1 + 0.2},
        {"step": 2, "loss": None, "norms": [None, 1.0]},
    ]
    for line in (run.path / "metrics.jsonl").read_text().splitlines():
        strict(line)


def test_a_record_that_is_not_json_is_refused_whole(run: Run) -> None:
    with pytest.raises(InputError, match=r"record\.loss is a complex"):
        run.log({"loss": 1j})  # type: ignore[dict-item]
    assert run.metrics() == []


def test_a_line_cut_short_at_any_byte_is_forgotten(run: Run) -> None:
    run.log({"step": 1})
    run.log({"step": 2, "text": "é"})
    path = run.path / "metrics.jsonl"
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        kept = [{"step": 1}] * whole[:length].count(b"\n")
        assert run.metrics() == kept
        run.log({"step": 3})
        assert run.metrics() == [*kept, {"step": 3}]


def test_damage_before_the_end_is_named_by_line(run: Run) -> None:
    for line in (b'{"step": 1}\n{"st\n{"step": 3}\n', b'{"step": 1}\n7\n'):
        (run.path / "metrics.jsonl").write_bytes(line)
        with pytest.raises(CheckpointError, match=r"metrics\.jsonl line 2 is damaged"):
            run.metrics()
        with pytest.raises(CheckpointError, match="line 2"):
            run.truncate_metrics(0)
        assert (run.path / "metrics.jsonl").read_bytes() == line


def test_resuming_drops_what_came_after_the_step(run: Run) -> None:
    records: list[Any] = [{"step": step, "loss": 0.1 * step} for step in range(6)]
    records += [{"note": "no step"}, {"step": None}]
    for record in records:
        run.log(record)
    with open(run.path / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 6, "lo')
    run.truncate_metrics(3)
    assert run.metrics() == records[:4] + records[6:]
    run.log({"step": 4})
    assert run.metrics()[-1] == {"step": 4}
    assert os.listdir(run.path) == ["metrics.jsonl"]


def test_a_log_that_cannot_be_written_is_named(run: Run) -> None:
    (run.path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl: No space left on device"):
        run.log({"step": 1})
    (run.path / "metrics.jsonl").unlink()
    (run.path / "metrics.jsonl").mkdir()
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl: Is a directory"):
        run.log({"step": 1})
    with pytest.raises(CheckpointError, match=r"lstm: metrics\.jsonl cannot be read: Is a directory"):
        run.metrics()
