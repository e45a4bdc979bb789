import io
import json
import re

import pytest
import torch
from drawn import BLUE, RED, cut, draw
from PIL import Image

from keeping import fetched, keep
from unrolled.data.archives import bundle
from unrolled.data.captions import CaptionedImage, named_captions, read_coco
from unrolled.data.extract.files import bundled, single
from unrolled.errors import DataError


def png(colour: tuple[int, ...], size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGBA", size, colour).save(file, "PNG")
    return file.getvalue()


STAMPS = {
    "animals/birds/owl.png": png((*RED, 255), (40, 20)),
    "animals/birds/owl.txt": b"An owl. \naf.utf8='n Uil.\nfr.utf8=Une chouette : deux=2. \r\n"
    b"pt_BR.utf8=Coruja\nx=y\nde.utf8=\n",
    "animals/birds/owl_mirror.png": png((*RED, 255), (40, 20)),
    "a.png": png((*BLUE, 0), (2, 4)),
    "a.txt": b"A",
}  # fmt: skip


def test_files_below_a_folder_are_bundled_by_their_paths_there():
    members = {"./usr/stamps/b/x": b"1", "./usr/stamps/a": b"2", "./usr/stamps/symbols/c": b"3"}
    assert bundled("/stamps/", without="symbols/")(members) == bundle({"b/x": b"1", "a": b"2"})
    assert bundled("/stamps/")(members) == bundle({"b/x": b"1", "a": b"2", "symbols/c": b"3"})
    assert single({"a": b"1"}) == b"1"


def test_stamps_have_captions_in_many_languages_a_category_and_a_mask(cache, monkeypatch):
    keep(cache, monkeypatch, "stamps", bundle(STAMPS))
    stamps = named_captions("stamps", size=10)
    assert stamps.items == (
        CaptionedImage("a", ("A",), "a", {}),
        CaptionedImage(
            "animals/birds/owl", ("An owl.",), "animals",
            {"af": "'n Uil.", "fr": "Une chouette : deux=2.", "pt_BR": "Coruja"},
        ),
    )  # fmt: skip
    assert [picture.shape for picture in stamps.images] == [(3, 4, 2), (3, 5, 10)]
    assert (stamps.images[0] == 255).all()
    assert stamps.masks[0].tolist() == [[0, 0]] * 4
    assert (stamps.masks[1] == 255).all()
    assert named_captions("stamps").images[1].shape == (3, 20, 40)


def coco(folder, names=("a.png", "b.png", "c.png"), captions=None, **changes):
    """Pictures and a file of captions in COCO's format."""
    for name in names:
        draw(folder / "pictures" / name, size=(300, 200))
    captions = captions or [(n, f"caption {k} of {n}") for n in range(len(names)) for k in range(2)]
    data = {
        "info": {},
        "images": [{"id": 10 + n, "file_name": name, "width": 300} for n, name in enumerate(names)],
        "annotations": [
            {"id": i, "image_id": 10 + n, "caption": said} for i, (n, said) in enumerate(captions)
        ],
    }
    (folder / "captions.json").write_text(json.dumps(data | changes))
    return folder / "captions.json", folder / "pictures"


def test_captions_in_cocos_format_are_read_beside_their_pictures(tmp_path):
    found = read_coco(*coco(tmp_path))
    assert found.name == "captions.json"
    assert len(found) == 3
    assert found.items[1] == CaptionedImage("b.png", ("caption 0 of 1", "caption 1 of 1"))
    assert found.images[1].shape == (3, 171, 256)
    assert found.skipped == ()
    assert found.masks is None
    assert read_coco(*coco(tmp_path), size=None).images[0].shape == (3, 200, 300)


def test_missing_and_broken_pictures_are_listed_and_counted_and_may_be_skipped(tmp_path):
    names = tuple(f"{letter}.png" for letter in "abcdefgh")
    captions = [*((n, f"of {n}") for n in range(7)), (7, " … ")]
    paths = coco(tmp_path, names, captions)
    (tmp_path / "pictures" / "b.png").unlink()
    cut(tmp_path / "pictures" / "d.png")
    message = f"3 of 8 pictures in {paths[0]} cannot be used: h.png (without caption), b.png (missing), d"
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        read_coco(*paths)
    assert "--skip-broken" in str(caught.value)
    found = read_coco(*paths, skip_broken=True)
    assert [item.name for item in found.items] == ["a.png", "c.png", "e.png", "f.png", "g.png"]
    assert [item.captions for item in found.items] == [(f"of {n}",) for n in (0, 2, 4, 5, 6)]
    assert len(found.images) == 5
    assert found.skipped[:2] == ("h.png (without caption)", "b.png (missing)")
    for name in names:
        (tmp_path / "pictures" / name).unlink(missing_ok=True)
    with pytest.raises(DataError, match=r"names 8 pictures, none that can be used: h\.png .* and 3 more\.$"):
        read_coco(*paths, skip_broken=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "is no JSON object but begins with a list"),
        ("{", "is not JSON ("),
        ("\xff", "is not JSON ("),
        ("[" * 100_000, "is not JSON ("),
        ("{}", "has no list 'images': it has nothing."),
        ('{"images": 3, "info": 1}', "has no list 'images': it has 'images', 'info'."),
        ('{"images": [{"id": 1}]}', "number 1 of 'images' in {} has no 'file_name' that is text."),
        ('{"images": [3]}', "number 1 of 'images' in {} has no 'id' that is a whole number or text."),
        ('{"images": [{"id": true, "file_name": "a"}]}', "number 1 of 'images' in {} has no 'id'"),
        ('{"images": []}', "has no list 'annotations'"),
        ('{"images": [], "annotations": []}', "names 0 pictures, none that can be used."),
        (
            '{"images": [], "annotations": [{"image_id": 7, "caption": "x"}]}',
            "a caption for picture 7, and no",
        ),
    ],
)
def test_another_format_is_named(tmp_path, text, message):
    path = tmp_path / "c.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=re.escape(message.format(path))) as caught:
        read_coco(path, tmp_path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.json cannot be read \(No such file"):
        read_coco(tmp_path / "gone.json", tmp_path)


@pytest.mark.parametrize("named", [True, False])
def test_parts_keep_captions_beside_pictures(tmp_path, cache, monkeypatch, named):
    if named:
        many = {f"x/{n:02}.png": png((n, n, n, n), (3, 3)) for n in range(20)}
        keep(
            cache, monkeypatch, "stamps", bundle(many | {f"x/{n:02}.txt": f"{n}".encode() for n in range(20)})
        )
        whole = named_captions("stamps")
    else:
        whole = read_coco(
            *coco(tmp_path, [f"{n:02}.png" for n in range(20)], [(n, f"{n}") for n in range(20)])
        )
        for n in range(20):
            draw(tmp_path / "pictures" / f"{n:02}.png", (255 - (255 - n) * n // 255,) * 3, (3, 3))
    train, held = whole.split(5)
    assert (len(train), len(held)) == (15, 5)
    assert {item.name for item in train.items} | {item.name for item in held.items} == {
        i.name for i in whole.items
    }
    for part in (train, held):
        for place, item in enumerate(part.items):
            n = int(item.captions[0])
            assert abs(int(part.images[place][0, 0, 0]) - (255 - (255 - n) * n // 255)) <= 1
            if named:
                assert int(part.masks[place][0, 0]) == n
    assert [item.name for item in whole.split(5)[1].items] == [item.name for item in held.items]


def test_the_real_stamps_are_as_they_are_counted():
    stamps = fetched(named_captions, "stamps")
    assert len(stamps) == len(stamps.images) == len(stamps.masks) == 538
    assert len({item.category for item in stamps.items}) == 15
    assert all(item.captions[0] for item in stamps.items)
    assert sum("fr" in item.translations for item in stamps.items) > 500
    for picture, mask in zip(stamps.images, stamps.masks, strict=True):
        assert picture.shape[1:] == mask.shape
        assert max(mask.shape) <= 256
    assert torch.stack([(mask > 127).float().mean() for mask in stamps.masks]).mean() > 0.3
