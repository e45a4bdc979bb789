"""EfficientNet-Lite0 is the network that its weights were trained with."""

import numpy as np
import pytest
import torch

from keeping import fetched
from unrolled import DataError, InputError
from unrolled.data.captions import named_captions
from unrolled.data.images import fit
from unrolled.data.library import kept
from unrolled.nn.efficientnet import Convolution, EfficientNetLite0, pixels, read_weights


def convolution_by_hand(x, weight, stride, sides):
    """Of one channel, in NumPy, with so many rows and columns of zeros before and behind."""
    padded = np.pad(x, (sides, sides))
    kernel = weight.shape[0]
    size = (len(padded) - kernel) // stride + 1
    return np.array(
        [
            [
                (padded[i * stride : i * stride + kernel, j * stride : j * stride + kernel] * weight).sum()
                for j in range(size)
            ]
            for i in range(size)
        ]
    )


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "sides"),
    [(6, 3, 2, (0, 1)), (7, 3, 2, (1, 1)), (6, 5, 2, (1, 2)), (5, 3, 1, (1, 1)), (1, 5, 2, (2, 2))],
)
def test_padding_is_uneven_where_it_must_be(size, kernel, stride, sides):
    """The right and lower sides get what is left over, and the output has ceil(H / stride) rows."""
    torch.manual_seed(0)
    layer = Convolution(1, 1, kernel, stride, relu=False).double().eval()
    x = torch.randn(1, 1, size, size, dtype=torch.float64)
    found = layer(x)[0, 0].detach().numpy() * np.sqrt(1 + 1e-3)
    weight = layer.convolution.weight[0, 0].detach().numpy()
    expected = convolution_by_hand(x[0, 0].numpy(), weight, stride, sides)
    assert found.shape == (-(-size // stride),) * 2
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_relu6_ends_at_six():
    layer = Convolution(1, 1).eval()
    torch.nn.init.ones_(layer.convolution.weight)
    x = torch.tensor([-1.0, 1.0, 9.0]).view(1, 1, 1, 3)
    assert layer(x).flatten().tolist() == pytest.approx([0.0, 1 / np.sqrt(1.001), 6.0])


def test_sizes_are_those_of_the_paper():
    network = EfficientNetLite0()
    assert sum(p.numel() for p in network.parameters()) == 4_652_008
    assert len(network.blocks) == 16
    assert [block.adds for block in network.blocks].count(True) == 9
    with torch.no_grad():
        found = network.eval()(torch.zeros(1, 3, 65, 32))
    assert found.shape == (1, 1280, 3, 1)
    assert network.scores(found).shape == (1, 1000)


def test_pixels_are_bytes_around_zero():
    bytes_ = torch.tensor([[[[0, 127, 255]]]], dtype=torch.uint8)
    assert pixels(bytes_).flatten().tolist() == [-127 / 128, 0.0, 1.0]


def test_weights_are_read_by_their_names(tmp_path):
    """What is written under the package's names is read under ours, and the network is the same."""
    torch.manual_seed(0)
    network = EfficientNetLite0().eval()
    theirs = {
        name.replace("stem.convolution", "_conv_stem")
        .replace("stem.norm", "_bn0")
        .replace("head.convolution", "_conv_head")
        .replace("head.norm", "_bn1")
        .replace("classes", "_fc")
        .replace("blocks", "_blocks")
        .replace("expand.convolution", "_expand_conv")
        .replace("expand.norm", "_bn0")
        .replace("depthwise.convolution", "_depthwise_conv")
        .replace("depthwise.norm", "_bn1")
        .replace("project.convolution", "_project_conv")
        .replace("project.norm", "_bn2"): value
        for name, value in network.state_dict().items()
    }
    assert {"_blocks.1._bn0.weight", "_blocks.0._bn1.bias", "_fc.bias"} <= theirs.keys()
    torch.save(theirs, tmp_path / "weights.pth")
    again = EfficientNetLite0(read_weights(tmp_path / "weights.pth")).eval()
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(again(x), network(x))


def test_bad_files_are_told_in_a_line(tmp_path):
    (tmp_path / "no.pth").write_bytes(b"not weights")
    with pytest.raises(DataError, match=r"no\.pth holds no weights"):
        read_weights(tmp_path / "no.pth")
    with pytest.raises(DataError, match="no weights"):
        read_weights(tmp_path / "missing.pth")
    torch.save({"a": 1}, tmp_path / "number.pth")
    with pytest.raises(DataError, match="no weights by name"):
        read_weights(tmp_path / "number.pth")
    with pytest.raises(InputError, match="not weights of EfficientNet-Lite0: a is"):
        EfficientNetLite0({"a": torch.zeros(2)})
    with pytest.raises(InputError, match=r"expected \(B, 3, H, W\)"):
        EfficientNetLite0()(torch.zeros(1, 1, 32, 32))


def test_it_knows_what_is_on_some_stamps():
    """Classes of ImageNet: tiger, zebra, strawberry, banana, violin and hammer."""
    names = {
        "animals/mammals/cats/tiger": 292,
        "animals/mammals/equines/zebra": 340,
        "food/fruit/strawberry": 949,
        "food/fruit/banana": 954,
        "hobbies/music/string/violin": 889,
        "household/tools/hammer": 587,
    }
    stamps = fetched(named_captions, "stamps")
    weights = read_weights(fetched(lambda name, cache: kept(name, "weights", cache), "efficientnet-lite0"))
    places = [place for place, item in enumerate(stamps.items) if item.name in names]
    pictures = torch.stack([fit(stamps.images[place], 224) for place in places]).movedim(1, -1)
    network = EfficientNetLite0(weights).eval()
    with torch.no_grad():
        found = network.scores(network(pixels(pictures))).argmax(1).tolist()
    assert found == [names[stamps.items[place].name] for place in places]
