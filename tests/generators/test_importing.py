"""Published checkpoints: a network written from the published module order gives the same pictures after the import."""

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from scipy import ndimage
from torch import nn

from fastsynth.config import parse_config
from fastsynth.files import read_json, write_json
from fastsynth.images import read_image
from fastsynth.recipes.photos import import_pix2pixhd
from generators.encoding import instance_edges, one_hot
from generators.importing import import_encoder, import_generator
from generators.layout_config import PhotoConfig
from generators.layout_model import LayoutModel
from generators.pix2pixhd import Pix2PixHDGenerator
from generators.style import StyleEncoder

COLOURS = {"wall": (40, 40, 200), "door": (200, 60, 40), "window": (60, 190, 90)}


class PublishedBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            *(nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3), nn.InstanceNorm2d(channels), nn.ReLU()),
            *(nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3), nn.InstanceNorm2d(channels)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv_block(x)


def first(before: int, after: int) -> list[nn.Module]:
    return [nn.ReflectionPad2d(3), nn.Conv2d(before, after, 7), nn.InstanceNorm2d(after), nn.ReLU()]


def down(width: int) -> list[nn.Module]:
    return [nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.InstanceNorm2d(2 * width), nn.ReLU()]


def up(width: int) -> list[nn.Module]:
    convolution = nn.ConvTranspose2d(2 * width, width, 3, stride=2, padding=1, output_padding=1)
    return [convolution, nn.InstanceNorm2d(width), nn.ReLU()]


def last(before: int, after: int = 3) -> list[nn.Module]:
    return [nn.ReflectionPad2d(3), nn.Conv2d(before, after, 7), nn.Tanh()]


def whole(channels: int, width: int, *, downs: int, blocks: int) -> list[nn.Module]:
    """The global generator; without blocks the style encoder."""
    widths = [width * 2**i for i in range(downs)]
    return [
        *first(channels, width),
        *(part for w in widths for part in down(w)),
        *(PublishedBlock(width * 2**downs) for _ in range(blocks)),
        *(part for w in reversed(widths) for part in up(w)),
        *last(width),
    ]


class Published(nn.Module):
    """The published network: `model`, and `model<n>_1`, `model<n>_2` of each enhancer."""

    def __init__(self, channels: int, width: int, *, downs: int, blocks: int, enhancers: int = 0) -> None:
        super().__init__()
        layers = whole(channels, width, downs=downs, blocks=blocks)
        self.model = nn.Sequential(*(layers[:-3] if enhancers else layers))
        self.enhancers = enhancers
        for n in range(1, enhancers + 1):
            w = width // 2**n
            tail = last(w) if n == enhancers else []
            setattr(self, f"model{n}_1", nn.Sequential(*first(channels, w), *down(w)))
            setattr(self, f"model{n}_2", nn.Sequential(*(PublishedBlock(2 * w) for _ in range(3)), *up(w), *tail))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inputs = [x]
        for _ in range(self.enhancers):
            inputs.append(nn.functional.avg_pool2d(inputs[-1], 3, stride=2, padding=1, count_include_pad=False))
        out = self.model(inputs[-1])
        for n in range(1, self.enhancers + 1):
            front, back = getattr(self, f"model{n}_1"), getattr(self, f"model{n}_2")
            out = back(front(inputs[self.enhancers - n]) + out)
        return out


def published(**arguments) -> Published:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Published(**{"channels": 6, "width": 8, "downs": 2, "blocks": 2, **arguments}).eval()


def save(state: object, tmp_path: Path) -> Path:
    torch.save(state, tmp_path / "latest_net_G.pth")
    return tmp_path / "latest_net_G.pth"


def layout() -> torch.Tensor:
    labels = torch.randint(5, (2, 32, 48), generator=torch.Generator().manual_seed(1))
    return torch.cat([one_hot(labels, num_classes=5), instance_edges(labels)], 1)


@pytest.mark.parametrize(("enhancers", "downs", "blocks"), [(0, 2, 2), (0, 3, 1), (1, 2, 2), (2, 2, 1)])
def test_an_imported_generator_renders_what_the_published_one_renders(enhancers, downs, blocks, tmp_path):
    network = published(enhancers=enhancers, downs=downs, blocks=blocks)
    model = import_generator(save(network.state_dict(), tmp_path))
    assert model.config["num_classes"] == 5
    with torch.no_grad():
        torch.testing.assert_close(model(layout()), network(layout()), atol=1e-4, rtol=0)
        model.save_pretrained(tmp_path / "folder")
        loaded = Pix2PixHDGenerator.from_pretrained(tmp_path / "folder")
        torch.testing.assert_close(loaded(layout()), network(layout()), atol=1e-4, rtol=0)


def test_names_of_the_published_size_are_those_of_the_publication():
    with torch.device("meta"):
        names = {name.rpartition(".")[0] for name in Published(36, 64, downs=4, blocks=9).state_dict()}
    assert {"model.1", "model.13", "model.16.conv_block.1", "model.24.conv_block.5", "model.34", "model.38"} <= names


def test_an_imported_encoder_gives_the_published_styles(tmp_path):
    network = nn.Module()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network.model = nn.Sequential(*whole(3, 8, downs=4, blocks=0))
    assert "model.29.weight" in network.state_dict()
    model = import_encoder(save(network.state_dict(), tmp_path))
    assert isinstance(model, StyleEncoder)
    image = torch.rand((1, 3, 32, 48), generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(model.features(image), network.model(image), atol=1e-4, rtol=0)


def test_an_import_with_an_encoder_draws_with_the_styles_it_is_given(tmp_path):
    """It has no bank, and asks for the styles of no instance but those that were not given."""
    encoder = nn.Module()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder.model = nn.Sequential(*whole(3, 8, downs=2, blocks=0))
    torch.save(encoder.state_dict(), tmp_path / "latest_net_E.pth")
    network = published(channels=9)
    import_pix2pixhd(
        save(network.state_dict(), tmp_path), tmp_path / "latest_net_E.pth", tmp_path / "model", edges=True,
        style_channels=3,
    )  # fmt: skip
    model = LayoutModel.from_pretrained(tmp_path / "model")
    assert (model.style, model.bank) == ("encoder", None)

    labels = torch.arange(5)[:, None].repeat_interleave(8, dim=0)[:32].expand(32, 48).contiguous()
    photo = torch.rand((3, 32, 48), generator=torch.Generator().manual_seed(0)) * 2 - 1
    styles = {number: model.encode_style(photo, labels == number) for number in range(4)}
    drawn = model.draw(labels, labels, seed=0, styles=styles)
    planes = torch.stack([styles[number] for number in range(4)])[labels].movedim(-1, 0)
    layout = torch.cat([one_hot(labels[None], num_classes=5), instance_edges(labels[None]), planes[None]], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(drawn, network(layout)[0], atol=1e-4, rtol=0)
    del styles[2]
    with pytest.raises(ValueError, match="no style bank to choose a style for an instance of class 2 from; give every"):
        model.draw(labels, labels, seed=0, styles=styles)


@pytest.fixture
def photos(pair_folder, tmp_path) -> dict:
    """A configuration of 12 streets, all of them to train on, with one look per class."""
    classes = {name: list(colour) for name, colour in COLOURS.items()}
    return {
        "output": str(tmp_path), "device": "cpu",
        "data": {
            "photos": str(pair_folder / "photos"), "layouts": str(pair_folder / "layouts"), "classes": classes,
            "load_size": 32, "crop_size": 32, "held_out": 0,
        },
        "renderer": {"kind": "pix2pixhd", "network": {
            "num_centres": 1, "num_downsamples": 2, "encoder_downsamples": 2}, "training": {"stage_steps": [100]},
        },
    }  # fmt: skip


def published_files(tmp_path: Path, *, encoder_downs: int = 2, **arguments) -> tuple[Path, Path, Published, nn.Module]:
    """Generator and encoder of 3 classes and 3 style channels: their files, and they themselves."""
    encoder = nn.Module()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder.model = nn.Sequential(*whole(3, 8, downs=encoder_downs, blocks=0))
    torch.save(encoder.state_dict(), tmp_path / "latest_net_E.pth")
    network = published(channels=7, **arguments)
    return save(network.state_dict(), tmp_path), tmp_path / "latest_net_E.pth", network, encoder


@pytest.mark.parametrize("enhancers", [0, 1])
def test_with_photos_an_import_draws_every_class_as_it_looks_on_average(enhancers, photos, call, pair_folder, tmp_path):
    """With one centre per class that is the mean, over its regions in all photos, of the encoder's mean over each."""
    generator, encoder, network, eyes = published_files(tmp_path, enhancers=enhancers)
    (tmp_path / "photos.yaml").write_text(yaml.safe_dump(photos, sort_keys=False))
    answer = call(
        *("import", "pix2pixhd", generator, "--encoder", encoder, "--photos", tmp_path / "photos.yaml"),
        *("--output", tmp_path / "model"),
    )
    assert answer.code == 0, answer.err

    looks: dict[int, list[torch.Tensor]] = {0: [], 1: [], 2: []}
    for path in (pair_folder / "photos").iterdir():
        photo = torch.from_numpy(read_image(path)).movedim(-1, 0)[None] / 127.5 - 1
        smaller = nn.functional.avg_pool2d(photo, 2**enhancers)
        with torch.no_grad():
            seen = nn.functional.interpolate(eyes.model(smaller), scale_factor=2**enhancers)[0]
        layout = read_image(pair_folder / "layouts" / path.name)
        for label, colour in enumerate(COLOURS.values()):
            regions, count = ndimage.label((layout == colour).all(axis=2), structure=np.ones((3, 3)))
            looks[label] += [seen[:, torch.from_numpy(regions == number)].mean(1) for number in range(1, count + 1)]
    means = torch.stack([torch.stack(of_class).mean(0) for of_class in looks.values()])

    drawn = call("photo", "draw", tmp_path / "photos.yaml", pair_folder / "layouts", "--output", tmp_path / "drawn")
    assert drawn.out == f"{tmp_path / 'drawn'}: 36 pictures\n", drawn.err
    layout = read_image(pair_folder / "layouts" / "0.png")
    labels = torch.from_numpy(np.stack([(layout == colour).all(axis=2) for colour in COLOURS.values()]).argmax(0))
    planes = [one_hot(labels[None], num_classes=3), instance_edges(labels[None]), means[labels].movedim(-1, 0)[None]]
    with torch.no_grad():
        wanted = (network(torch.cat(planes, dim=1))[0].movedim(0, -1) + 1) * 127.5
    for look in (1, 3):
        np.testing.assert_allclose(read_image(tmp_path / "drawn" / f"0-{look}.png"), wanted, atol=1)


def test_photos_that_do_not_fit_an_import_are_one_line(photos, tmp_path):
    generator, encoder, *_ = published_files(tmp_path, encoder_downs=4, enhancers=1)
    fewer = dict(list(photos["data"]["classes"].items())[:2])
    crn = {"kind": "crn", "network": {"widths": [8, 8]}, "training": {"stage_steps": [100]}}
    for found, changes, message in (
        (None, {}, "--photos without --encoder, which finds the looks"),
        (encoder, {"data": {**photos["data"], "classes": fewer}}, "knows 3 classes, data.classes has 2; name every id"),
        (encoder, {"renderer": crn}, "renderer.kind is crn, which has no styles; set it to pix2pixhd"),
        (encoder, {}, "data.crop_size is 32; these networks need a multiple of 32 pixels, at least 64"),
    ):
        config = parse_config(PhotoConfig, {**photos, **changes}, source="photos.yaml")
        with pytest.raises(ValueError, match=message):
            import_pix2pixhd(generator, found, tmp_path / "model", edges=True, style_channels=3, photos=config)
        assert not (tmp_path / "model").exists()


def test_the_first_tensor_of_another_shape_is_named(tmp_path):
    state = published().state_dict()
    state["model.4.weight"] = state["model.4.weight"][:, :, :2]
    state["model.7.bias"] = state["model.7.bias"][:1]
    with pytest.raises(
        ValueError, match=r"tensor model\.4\.weight is \(16, 8, 2, 3\), this network has \(16, 8, 3, 3\)"
    ):
        import_generator(save(state, tmp_path))


@pytest.mark.parametrize("name", ["model.1.weight", "model.7.bias", "model.19.weight", "model.11.conv_block.5.bias"])
def test_a_missing_tensor_is_named(name, tmp_path):
    state = published().state_dict()
    state = OrderedDict((key, value) for key, value in state.items() if key != name)
    with pytest.raises(ValueError, match=f"tensor {name} is missing"):
        import_generator(save(state, tmp_path))


def test_an_input_without_classes_is_refused(tmp_path):
    path = save(published().state_dict(), tmp_path)
    with pytest.raises(ValueError, match="has 6 channels, of which 1 for edges and 5 for styles leave 0: no layout"):
        import_generator(path, style_channels=5)
    picture = save(published(channels=3).state_dict(), tmp_path)
    for edges in (True, False):
        with pytest.raises(ValueError, match="label_nc 0, from pictures, cannot be imported"):
            import_generator(picture, edges=edges)


def test_a_damaged_description_is_one_line(tmp_path):
    network = import_generator(save(published().state_dict(), tmp_path))
    LayoutModel(network, tuple("abcde"), ignore=255, layer_weights=(1.0, 0.5)).save_pretrained(tmp_path / "model")
    model, path = LayoutModel.from_pretrained(tmp_path / "model"), tmp_path / "model" / "layout_model.json"
    assert (model.class_names, model.ignore, model.layer_weights) == (tuple("abcde"), 255, (1.0, 0.5))
    whole = read_json(path)
    for damaged, message in (
        ({key: value for key, value in whole.items() if key != "style"}, "key 'style' is missing"),
        ({**whole, "kind": "spade"}, "kind: got 'spade'"),
        ({}, "key 'kind' is missing"),
        ([1, 2], r"config: got \[1, 2\]"),
    ):
        write_json(path, damaged)
        with pytest.raises(
            ValueError, match=rf"model is damaged \(layout_model\.json: {message}.*; restore"
        ) as refused:
            LayoutModel.from_pretrained(tmp_path / "model")
        assert "\n" not in str(refused.value)


def test_a_tensor_too_many_is_named(tmp_path):
    state = {**published().state_dict(), "model.2.running_mean": torch.zeros(8)}
    with pytest.raises(ValueError, match=r"tensor model\.2\.running_mean has no place"):
        import_generator(save(state, tmp_path))


def test_other_files_are_refused_without_running_them(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        import_generator(tmp_path / "latest_net_G.pth")
    with pytest.raises(ValueError, match="not a file of plain tensors"):
        import_generator(save(published(), tmp_path))
    with pytest.raises(ValueError, match="pass a state dict"):
        import_generator(save({"epoch": 3}, tmp_path))
    with pytest.raises(ValueError, match=r"no residual block .* the first is weight"):
        import_generator(save(nn.Linear(2, 2).state_dict(), tmp_path))
