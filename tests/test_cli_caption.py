"""`unrolled train caption` and `unrolled caption`: runs go on as if they never stopped, pictures of any kind
are read, and what is broken is listed."""

import json
import re
import signal
from pathlib import Path

import numpy as np
import pytest

from coloured import looker, shapes, written_as_files
from commands import Call, Result, caller, losses, refused
from unrolled.data import images
from unrolled.errors import CheckpointError
from unrolled.report.captions import Looked
from unrolled.report.overlays import lit, overlay_sheet, smooth
from unrolled.tasks import caption_data, caption_runs
from unrolled.tasks.caption import CaptionTask
from unrolled.tasks.caption_runs import written_of
from unrolled.train import loop
from unrolled.train.runs import open_run

pytest.importorskip("tokenizers")
pytest.importorskip("sacrebleu")
image = pytest.importorskip("PIL.Image")

SIZES = {"hidden": 12, "embedding": 8, "picture": 8, "width": 8, "batch": 12, "warmup": 0, "monitor": 0}
SMALL = tuple(word for name, value in SIZES.items() for word in (f"--{name}", str(value)))
FILES = ("pictures", "--captions", "pictures/captions.json")


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run the command line in a folder with pictures and their captions; what looks at them is small."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    for module in (caption_data, caption_runs):
        monkeypatch.setattr(module, "efficientnet", looker)
    Path("pictures").mkdir()
    written_as_files(Path("pictures"), shapes(18))

    return caller(capsys)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sheets are not drawn, as that takes time."""
    monkeypatch.setattr("unrolled.report.overlays.overlay_sheet", lambda *_: b"\x89PNG drawn")


def train(call: Call, *words: object, files: tuple[str, ...] = FILES) -> Result:
    return call("train", "caption", *SMALL, *files, *words)


def test_a_run_leaves_captions_a_sheet_and_a_page(call):
    """And its model captions pictures, with a sheet of overlays."""
    result = train(call, "--steps", 4, "--name", "run", "--monitor", 2)
    assert result.status == 0, result.err
    said = " ".join(result.out.split())
    assert "runs/run: lstm, 12 units, soft attention on captions.json" in said
    assert "14 pictures to learn from, 4 held out" in said
    assert re.search(
        r"nearest neighbour +BLEU-1 to 4 [\d.]+ [\d.]+ [\d.]+ [\d.]+, CIDEr-D [\d.]+, noun [\d.]+%", said
    )
    assert re.search(r"done\. Held-out pictures, a beam of 5: BLEU-1 to 4.* the network alone: BLEU-1", said)
    for name in ("captions.png", "report.html", "captions.jsonl", "flow.jsonl"):
        assert (Path("runs/run") / name).stat().st_size > 100, name
    page = Path("runs/run/report.html").read_text()
    assert page.count('<img class="picture"') == 8
    assert "The worst captions" in page
    assert "Gradient by lag" in page
    record = json.loads(Path("runs/run/captions.jsonl").read_text().splitlines()[0])
    assert set(record) >= {"picture", "caption", "people", "cider", "weights"}

    found = call("caption", "runs/run", "pictures/0.png", "pictures/5.png", "-o", "sheet.png")
    assert found.status == 0, found.err
    lines = found.out.splitlines()
    assert [line.split("\t")[0] for line in lines[:2]] == ["pictures/0.png", "pictures/5.png"]
    assert float(lines[0].split("\t")[2]) < 0
    with image.open("sheet.png") as sheet:
        assert sheet.width > 400


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("image_enters", ["soft", "hard"])
def test_a_run_that_was_stopped_goes_on_bit_by_bit(call, monkeypatch, image_enters):
    """The losses of a run that is interrupted and resumed, flips, draws and dropout included, are those of
    one that is not."""
    words = ("--steps", 6, "--image", image_enters)
    assert train(call, *words, "--name", "whole").status == 0
    original, steps = CaptionTask.gradients, []

    def interrupted(self, step):
        steps.append(step)
        if len(steps) == 3:
            signal.raise_signal(signal.SIGINT)
        return original(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(CaptionTask, "gradients", interrupted)
        result = train(call, *words, "--name", "stopped")
    assert result.status == 130
    assert "unrolled train caption --resume runs/stopped" in result.out
    assert call("train", "caption", "--resume", "runs/stopped").status == 0
    assert losses("stopped") == losses("whole")
    assert len(losses("whole")) == 6
    assert Path("runs/stopped/captions.jsonl").read_bytes() == Path("runs/whole/captions.jsonl").read_bytes()


@pytest.mark.usefixtures("undrawn")
def test_a_run_goes_on_with_its_own_pictures_alone(call):
    assert train(call, "--steps", 2, "--name", "run").status == 0
    resume = ("train", "caption", "--resume", "runs/run", "--steps", 3)
    Path("pictures").rename("moved")
    assert "say where with FOLDER and --captions" in refused(call(*resume))
    moved = ("moved", "--captions", "moved/captions.json")
    changed = Path("moved/3.png").read_bytes()
    Path("moved/3.png").write_bytes(Path("moved/4.png").read_bytes())
    assert "are not those this run was trained on" in refused(call(*resume, *moved))
    Path("moved/3.png").write_bytes(changed)
    assert call(*resume, *moved).status == 0
    assert "--image cannot change" in refused(call(*resume, *moved, "--image", "hard"))


def test_a_dry_run_writes_nothing(call):
    result = train(call, "--steps", 50, "--dry-run")
    assert result.status == 0, result.err
    assert re.search(r"decoder +Decoder", result.out)
    assert re.search(r"parameters +[\d,]+", result.out)
    assert "50 steps" in result.out
    assert not Path("runs").exists()


@pytest.mark.usefixtures("undrawn")
def test_broken_and_missing_pictures_are_listed_and_skipped_only_if_asked(call):
    Path("pictures/2.png").unlink()
    Path("pictures/7.png").write_bytes(b"no picture")
    told = refused(train(call, "--steps", 1))
    assert "2 of 18 pictures" in told
    assert "2.png (missing)" in told
    assert "7.png (" in told
    assert "--skip-broken" in told
    assert not Path("runs").exists()
    result = train(call, "--steps", 1, "--skip-broken", "--name", "run")
    assert result.status == 0, result.err
    assert re.search(r"left out: 2\.png \(missing\), 7\.png \(", result.out)
    recorded = json.loads(Path("runs/run/config.json").read_text())
    assert len(recorded["data"]["skipped"]) == 2
    assert call("train", "caption", "--resume", "runs/run", "--steps", 2).status == 0


def test_origins_that_do_not_fit_are_told(call):
    assert "--captions JSON" in refused(call("train", "caption", "pictures"))
    assert "such as stamps" in refused(call("train", "caption"))
    assert "no data set" in refused(call("train", "caption", "stomps"))
    assert "without FOLDER" in refused(call("train", "caption", "--captions", "pictures/captions.json"))
    Path("bad.json").write_text("{}")
    assert "bad.json" in refused(call("train", "caption", "pictures", "--captions", "bad.json"))
    assert "--picture-dropout" in refused(train(call, "--picture-dropout", 2))


@pytest.mark.usefixtures("undrawn")
def test_pictures_of_any_kind_are_captioned(call, monkeypatch):
    """16 bits, palette, transparency, CMYK, a pixel; what is broken or huge is told, the others are read."""
    assert train(call, "--steps", 1, "--name", "run").status == 0
    grey = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    image.fromarray(grey).save("grey16.png")
    image.fromarray(grey.astype(np.uint8)).convert("P").save("palette.png")
    image.new("RGBA", (9, 5), (255, 0, 0, 128)).save("clear.png")
    image.new("CMYK", (6, 6), (0, 255, 0, 0)).save("print.jpg")
    image.new("1", (1, 1)).save("pixel.png")
    image.new("RGB", (40, 40)).save("huge.png")
    Path("cut.png").write_bytes(Path("pictures/0.png").read_bytes()[:60])
    names = ["grey16.png", "palette.png", "clear.png", "print.jpg", "pixel.png"]
    found = call("caption", "run", *names)
    assert found.status == 0, found.err
    assert [line.split("\t")[0] for line in found.out.splitlines()[:5]] == names
    monkeypatch.setattr(images, "MOST", 1000)
    found = call("caption", "run", "huge.png", "pixel.png", "cut.png", "nothing.png", "--no-overlays")
    assert found.status == 2
    assert [line.split("\t")[0] for line in found.out.splitlines()] == ["pixel.png"]
    assert found.err.count("warning: ") == 3
    assert "huge.png has 40 x 40 pixels" in found.err
    assert "Traceback" not in found.err
    assert "none of the pictures can be read" in call("caption", "run", "cut.png").err


@pytest.mark.usefixtures("undrawn")
def test_ways_to_write(call):
    """Greedy, beam and drawn by a seed; options that do not fit are told."""
    assert train(call, "--steps", 1, "--name", "run", "--image", "beside").status == 0
    one = ("caption", "run", "pictures/0.png")
    assert call(*one).out == call(*one, "--beam", 5, "--length-penalty", 0).out
    alone = call(*one, "--alone")
    assert alone.out == call(*one, "--alone", "--beam", 5, "--length-penalty", 3).out
    assert call(*one, "--beam", 1).status == 0
    drawn = [call(*one, "--temperature", 3, "--seed", seed).out for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert "the picture enters as a whole" in call(*one).err
    assert "--beam" in refused(call(*one, "--beam", 2, "--top-k", 3))
    assert "--seed" in refused(call(*one, "--top-k", 3, "--seed", -1))
    assert "is no file" in refused(call(*one, "-o", "pictures"))
    assert train(call, "--steps", 1, "--name", "single", "--neighbours", 0).status == 0
    assert "--alone" in refused(call("caption", "single", "pictures/0.png", "--alone"))
    assert "no run at" in refused(call("caption", "nowhere", "pictures/0.png"))


@pytest.mark.usefixtures("undrawn")
def test_gradient_flow_is_measured_of_a_run(call):
    assert train(call, "--steps", 2, "--name", "run").status == 0
    found = call("flow", "run")
    assert found.status == 0, found.err
    assert "soft attention" in found.out
    assert Path("runs/run/flow.html").stat().st_size > 1000


@pytest.mark.usefixtures("undrawn")
def test_damaged_runs_are_told(call, monkeypatch):
    assert train(call, "--steps", 1, "--name", "run").status == 0
    lines = Path("runs/run/captions.jsonl").read_text()
    Path("runs/run/captions.jsonl").write_text(lines[:30])
    with pytest.raises(CheckpointError, match=r"captions\.jsonl is damaged"):
        written_of(open_run(Path("runs/run")))
    assert call("train", "caption", "--resume", "runs/run").status == 0
    assert Path("runs/run/captions.jsonl").read_text() == lines
    with monkeypatch.context() as patch:
        patch.setattr(loop.checkpoint, "newest", lambda *_: loop.checkpoint.Checkpoint(1, Path("c"), {}, {}))
        assert "not a checkpoint of a captioner" in refused(call("caption", "run", "pictures/0.png"))


def test_smoothed_weights_stay_where_they_were():
    """They add to about as much, no corner is left, and the brightest point is in the brightest place."""
    weights = np.zeros((7, 7))
    weights[1, 5] = 0.75
    weights[3, 3] = 0.25
    found = smooth(weights, 224, 224)
    assert found.mean() * 49 == pytest.approx(1, abs=0.05)
    row, column = np.unravel_index(found.argmax(), found.shape)
    assert (row // 32, column // 32) == (1, 5)
    assert np.abs(np.diff(found, axis=0)).max() < 0.04 * found.max()
    assert smooth(np.full((4, 4), 1 / 16), 8, 8) == pytest.approx(np.full((8, 8), 1 / 16))


def test_a_picture_glows_where_it_was_looked_at():
    picture = np.full((64, 64, 3), 128, dtype=np.uint8)
    weights = np.zeros((2, 2))
    weights[0, 1] = 1
    found = lit(picture, weights, float(smooth(weights, 64, 64).max()))
    assert found.shape == (64, 64, 3)
    assert (found >= 0).all()
    assert (found <= 1).all()
    red_over_blue = found[..., 0] - found[..., 2]
    assert red_over_blue[8, 56] > 0.5
    assert abs(red_over_blue[56, 8]) < 0.05


def test_a_sheet_has_a_row_for_each_picture():
    """And more rows where there are many words; weights must be those of the words."""
    picture = np.zeros((8, 8, 3), dtype=np.uint8)
    short = Looked(picture, ["a"], np.full((1, 2, 2), 0.25), "a")
    long = Looked(picture, ["w"] * 9, np.full((9, 2, 2), 0.25), "w " * 9, "people: w")
    whole = Looked(picture, [], None, "no places")
    sizes = []
    for rows in ([short], [short, whole], [short, long]):
        data = overlay_sheet(rows)
        assert data.startswith(b"\x89PNG")
        sizes.append(int.from_bytes(data[20:24], "big"))
    assert sizes[0] < sizes[1] < sizes[2]
    with pytest.raises(ValueError, match="cannot have weights"):
        Looked(picture, ["a", "b"], np.full((1, 2, 2), 0.25))
    with pytest.raises(ValueError, match="a picture at least"):
        overlay_sheet([])
