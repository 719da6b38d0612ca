"""What users bring: each mistake gets one clear line and the right exit code, and what is merely unusual works."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from fastsynth.images import encode_png, read_image


def each(folder: Path, change: Callable[[Path], object]) -> None:
    for path in sorted(folder.iterdir()):
        change(path)


def cut_off(path: Path) -> None:
    """The picture as a JPEG whose second half is missing."""
    path.unlink()
    data = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8))[1].tobytes()
    path.with_suffix(".jpg").write_bytes(data[: len(data) // 2])


def as_cmyk(path: Path) -> None:
    Image.open(path).convert("CMYK").save(path.with_suffix(".jpg"))
    path.unlink()


def black(path: Path) -> None:
    path.write_bytes(encode_png(np.zeros((40, 48), np.uint8)))


def halved(path: Path) -> None:
    path.write_bytes(encode_png(read_image(path)[::2, ::2]))


def dot(path: Path) -> None:
    path.write_bytes(encode_png(np.zeros((1, 1, 3), np.uint8)))


def keep_one(folder: Path) -> None:
    each(folder, lambda path: path.unlink() if "00" not in path.name else None)


MISTAKES = {
    "wrong path": (shutil.rmtree, "tile: no such folder"),
    "empty folder": (lambda root: [shutil.rmtree(folder) for folder in root.iterdir()], "holds no images"),
    "no normals": (lambda root: each(root / "train/good", Path.unlink), "holds no normal images; put some into"),
    "no defects": (
        lambda root: [shutil.rmtree(root / "test" / defect) or shutil.rmtree(root / "ground_truth" / defect)
                      for defect in ("blob", "crack")],
        "has no defect images; put some into",
    ),
    "one defect image": (lambda root: keep_one(root / "test/crack"), "at least 2 are needed"),
    "no masks": (
        lambda root: shutil.rmtree(root / "ground_truth/crack"),
        "crack00.png: no mask; add ground_truth/crack/crack00_mask.png",
    ),
    "masks of another size": (lambda root: each(root / "ground_truth/crack", halved), "mask is 24×20, its image 48×40"),
    "black masks": (lambda root: each(root / "ground_truth/crack", black), "no pixel is marked"),
    "one black mask": (lambda root: black(root / "ground_truth/crack/crack05_mask.png"), "crack05_mask.png: no pixel"),
    "one mask of another size": (
        lambda root: halved(root / "ground_truth/crack/crack05_mask.png"),
        "crack05_mask.png: mask is 24×20, its image 48×40",
    ),
    "one truncated": (lambda root: cut_off(root / "test/crack/crack05.png"), "crack05.jpg: file is truncated"),
    "one CMYK": (lambda root: as_cmyk(root / "train/good/train05.png"), "train05.jpg: CMYK picture; convert"),
    "one normal of a pixel": (lambda root: dot(root / "train/good/train05.png"), "train05.png: 1×1 pixels"),
    "truncated": (lambda root: each(root / "test/crack", cut_off), "file is truncated; copy it again"),
    "CMYK": (lambda root: each(root / "test/crack", as_cmyk), "CMYK picture; convert it to RGB or grey"),
}  # fmt: skip
UNUSABLE = ("wrong path", "empty folder", "no normals", "no defects")
"""There is no data set to check."""


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_data_is_one_line_that_names_it_and_nothing_is_written(
    mistake, tiny_tree, write_config, tmp_path, cli
):
    damage, message = MISTAKES[mistake]
    damage(tiny_tree)
    answer = cli("train", write_config(tmp_path, tiny_tree))
    assert answer.code == (2 if mistake in UNUSABLE else 3)
    assert message in answer.complaint
    assert str(tiny_tree.name) in answer.complaint or "crack" in answer.complaint
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_data_check_names_every_problem_and_exits_with_3(tiny_tree, cli):
    black(tiny_tree / "ground_truth/crack/crack00_mask.png")
    halved(tiny_tree / "ground_truth/crack/crack01_mask.png")
    (tiny_tree / "ground_truth/blob/blob02_mask.png").unlink()
    cut_off(tiny_tree / "train/good/train03.png")
    as_cmyk(tiny_tree / "train/good/train04.png")
    (tiny_tree / "train/good/train05.png").write_bytes(encode_png(np.zeros((1, 1, 3), np.uint8)))
    expected = {
        "ground_truth/crack/crack00_mask.png": "empty_mask",
        "ground_truth/crack/crack01_mask.png": "wrong_size",
        "test/blob/blob02.png": "image_without_mask",
        "train/good/train03.jpg": "unreadable",
        "train/good/train04.jpg": "unreadable",
        "train/good/train05.png": "too_small",
    }
    answer = cli("data", "check", tiny_tree, "--json")
    assert answer.code == 3
    assert {problem["path"]: problem["kind"] for problem in json.loads(answer.out)} == expected
    answer = cli("data", "check", tiny_tree)
    assert answer.code == 3
    *lines, summary = answer.out.splitlines()
    assert [line.split(": ")[0] for line in lines] == sorted(expected)
    assert summary == "14 normal and 12 defect images, 6 problems"


def test_a_type_with_one_image_is_a_problem_that_check_and_doctor_name(tiny_tree, tmp_path, cli):
    keep_one(tiny_tree / "test/crack")
    keep_one(tiny_tree / "ground_truth/crack")
    answer = cli("data", "check", tiny_tree)
    assert answer.code == 3
    assert "test/crack/crack00.png: the only image of crack: at least 2 are needed" in answer.out
    answer = cli("doctor", "--data", tiny_tree, "--output", tmp_path)
    assert answer.code == 3
    assert "fail  data: test/crack/crack00.png: the only image of crack" in answer.out


def test_the_same_picture_in_both_folders_of_a_tree_is_named(tiny_tree, cli):
    shutil.copyfile(tiny_tree / "train/good/train03.png", tiny_tree / "test/good/again.png")
    answer = cli("data", "check", tiny_tree)
    assert answer.code == 3
    assert "train/good/train03.png: the same picture as test/good/again.png; remove one" in answer.out


def test_what_no_longer_fits_the_split_is_listed_by_the_command_that_the_run_names(
    tiny_tree, write_config, tmp_path, cli
):
    config, split = write_config(tmp_path, tiny_tree), tmp_path / "run" / "split.json"
    assert "made earlier" not in cli("data", "split", config).out
    parts = json.loads(split.read_text())
    learnt, tested = (next(image for image in parts[part] if "good" in image) for part in ("train", "test"))
    shutil.copyfile(tiny_tree / learnt, tmp_path / "original.png")
    shutil.copyfile(tiny_tree / tested, tiny_tree / learnt)
    answer = cli("train", config)
    assert answer.code == 2
    assert f"{tiny_tree / learnt} is the test image {tested}" in answer.complaint
    shutil.copyfile(tiny_tree / learnt, tmp_path / "leak.png")
    restored = next(image for image in parts["train"] if "good" not in image)
    shutil.copyfile(tmp_path / "original.png", tiny_tree / learnt)
    mask = tiny_tree / restored.replace("test", "ground_truth", 1).replace(".png", "_mask.png")
    mask.write_bytes(encode_png(np.zeros((8, 8, 1), np.uint8)))
    answer = cli("train", config)
    assert answer.code == 3
    command = f"fastsynth data check {tiny_tree} --split {split}"
    assert f"`{command}` lists all" in answer.complaint
    shutil.copyfile(tmp_path / "leak.png", tiny_tree / learnt)
    answer = cli(*command.split()[1:], "--json")
    assert answer.code == 3
    found = {(problem["path"], problem["kind"]) for problem in json.loads(answer.out)}
    assert found >= {(learnt, "stale_split"), (max(learnt, tested), "duplicate_across_parts")}
    assert mask.relative_to(tiny_tree).as_posix() in {path for path, _ in found}
    assert f"{split}: made earlier, for another one choose another output" in cli("data", "split", config).out


def test_data_check_of_sound_data_exits_with_0(shared_tree, cli):
    answer = cli("data", "check", shared_tree)
    assert (answer.code, answer.out) == (0, "14 normal and 12 defect images, 0 problems\n")


def test_unusual_data_go_all_the_way(write_config, tmp_path, cli):
    """16-bit grey, spaces and Unicode in every name, masks larger than the model's crop, a picture of 20×20 pixels."""
    root, rng = tmp_path / "Prüf stücke 検査", np.random.default_rng(0)
    defect = "große Kratzer é"
    for kind in ("normal", f"defects/{defect}", f"masks/{defect}"):
        (root / kind).mkdir(parents=True)
    for i in range(8):
        image = rng.integers(9000, 30000, (100, 120, 1), np.uint16)
        (root / "normal" / f"Bild {i} ü.png").write_bytes(encode_png(image))
        mask = np.zeros((100, 120), np.uint8)
        mask[10:90, 10 + i : 90] = 255
        (root / "defects" / defect / f"Teil {i} ß.png").write_bytes(
            encode_png(image + (mask[..., None] > 0) * np.uint16(20000))
        )
        (root / "masks" / defect / f"Teil {i} ß.png").write_bytes(encode_png(mask))
    (root / "normal" / "small.png").write_bytes(encode_png(rng.integers(9000, 30000, (20, 20, 1), np.uint16)))
    config = write_config(tmp_path, root)
    options = ("-s", "generate.count=4")
    for command in (("train", config), ("generate", config, *options)):
        answer = cli(*command)
        assert answer.code == 0, answer.err
    store = tmp_path / "run" / "synthetic"
    answer = cli("audit", store, "--data", root, "--split", tmp_path / "run" / "split.json")
    assert (answer.code, answer.out.partition(",")[0]) == (0, "4 samples"), answer.out
    made = [read_image(path) for path in store.rglob("*.png") if "train" in path.parts]
    assert {(image.dtype.name, image.shape[2]) for image in made} == {("uint16", 1)}


@pytest.mark.filterwarnings("ignore:pictures with an alpha channel")
def test_palette_and_alpha_pictures_are_backgrounds_like_any_other(tiny_tree, write_config, tmp_path, cli):
    def as_palette(path):
        Image.open(path).quantize(16).save(path)

    def with_alpha(path):
        Image.open(path).convert("RGBA").save(path)

    each(tiny_tree / "train/good", as_palette)
    each(tiny_tree / "test/crack", with_alpha)
    config = write_config(tmp_path, tiny_tree)
    answer = cli("train", config)
    assert answer.code == 0, answer.err
    assert answer.complaint == "fastsynth: pictures with an alpha channel: it is dropped"
    assert cli("generate", config, "-s", "generate.count=2").code == 0
    assert cli("audit", tmp_path / "run" / "synthetic", "--data", tiny_tree).code == 0


def test_a_run_on_a_picture_of_one_pixel_is_refused_and_the_picture_named(tiny_tree, write_config, tmp_path, cli):
    (tiny_tree / "train/good/train05.png").write_bytes(encode_png(np.zeros((1, 1, 3), np.uint8)))
    answer = cli("run", write_config(tmp_path, tiny_tree))
    assert answer.code == 3
    assert "train/good/train05.png: 1×1 pixels, at least 16×16 are needed" in answer.complaint


@pytest.mark.parametrize("output", ["/dev/null/run", "{file}/run", "/proc/run"])
def test_an_output_that_cannot_be_written_is_named(output, shared_tree, write_config, tmp_path, cli):
    (tmp_path / "file").touch()
    output = output.format(file=tmp_path / "file")
    answer = cli("train", write_config(tmp_path, shared_tree), "-s", f"output={output}")
    assert answer.code in (1, 2)
    assert output in answer.complaint


WITHOUT_PRIVILEGES = """
import ctypes
nothing = (ctypes.c_uint32 * 6)()  # root writes to read-only folders by a capability
assert ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522, 0), nothing) == 0
fastsynth.cli.main()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="capabilities are Linux's")
@pytest.mark.parametrize("verb", ["masks", "train", "run"])
def test_a_read_only_folder_is_named_and_stays_as_it_is(verb, shared_tree, write_config, tmp_path, cli):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    config = write_config(tmp_path, shared_tree)
    answer = cli(verb, config, "-s", f"output={locked}/run", program=WITHOUT_PRIVILEGES)
    assert answer.code == 1
    assert f"{locked}/run" in answer.complaint
    assert "Permission denied; check the path and its permissions" in answer.complaint
    assert not list(locked.iterdir())


def test_a_full_disk_while_a_segmenter_is_trained_is_one_line_and_the_same_command_goes_on(
    shared_tree, write_config, tmp_path, cli
):
    config = write_config(tmp_path, shared_tree)
    for largest in (100_000, 1_500_000):  # the weights do not fit; the optimizer does not
        answer = cli("segment", "train", config, largest_file=largest)
        assert answer.code == 1
        assert "free some space and run the same command again" in answer.complaint
    assert cli("segment", "train", config).code == 0


def test_checkpoints_of_another_training_are_refused(shared_tree, write_config, tmp_path, cli):
    config = write_config(tmp_path, shared_tree)
    foreign = "renderer.base.fresh.block_out_channels=[24,24]"
    assert cli("train", config, "-s", f"output={tmp_path}/other", "-s", foreign).code == 0
    shutil.copytree(tmp_path / "other" / "checkpoints", tmp_path / "run" / "checkpoints")
    answer = cli("train", config)
    assert answer.code == 2
    checkpoint = tmp_path / "run" / "checkpoints" / "checkpoint-2"
    assert f"{checkpoint} is of a training with other settings or images" in answer.complaint


def test_another_model_in_place_of_the_autoencoder_is_refused(shared_tree, write_config, tmp_path, cli):
    config, folder = write_config(tmp_path, shared_tree), tmp_path / "unet"
    folder.mkdir()
    (folder / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    answer = cli("train", config, "-s", f"renderer.base.autoencoder={folder}")
    assert answer.code == 2
    assert f"{folder} holds a UNet2DConditionModel, wanted a CompactAutoencoder; check" in answer.complaint


def test_masks_are_drawn_without_torch(shared_tree, write_config, tmp_path):
    config = write_config(tmp_path, shared_tree)
    program = (
        "import sys; from fastsynth.cli import app; "
        "app(['masks', sys.argv[1], '--count', '4'], standalone_mode=False); "
        "print(sorted({'torch', 'diffusers', 'accelerate'} & sys.modules.keys()))"
    )
    command = [sys.executable, "-c", program, str(config)]
    answer = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines() == [str(tmp_path / "run" / "sheets" / "layouts.png"), "[]"]


def test_a_model_of_another_configuration_is_refused_and_the_key_is_named(shared_tree, write_config, tmp_path, cli):
    config = write_config(tmp_path, shared_tree)
    assert cli("train", config).code == 0
    before = (tmp_path / "run" / "config.yaml").read_bytes()
    for verb in ("train", "generate", "run"):
        answer = cli(verb, config, "-s", "renderer.base.fresh.token_width=32")
        assert answer.code == 2
        assert "is trained with renderer.base.fresh.token_width 16, this configuration has 32" in answer.complaint
    assert (tmp_path / "run" / "config.yaml").read_bytes() == before

    shutil.copytree(shared_tree, tmp_path / "other")
    answer = cli("generate", config, "-s", f"data.root={tmp_path / 'other'}")
    assert answer.code == 2
    assert "the model was not trained on other/blob; did you mean tile/blob?" in answer.complaint


def test_a_damaged_model_is_refused_by_its_name(shared_tree, write_config, tmp_path, cli):
    config = write_config(tmp_path, shared_tree)
    assert cli("train", config).code == 0
    weights = tmp_path / "run" / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    for damaged in (whole[:1000], whole[:-1] + bytes([whole[-1] ^ 1])):  # the second one can be read
        weights.write_bytes(damaged)
        answer = cli("generate", config)
        assert answer.code == 2
        assert f"{weights} is damaged or of another model; restore it" in answer.complaint
    weights.unlink()
    answer = cli("generate", config)
    assert answer.code == 2
    assert f"{weights} is missing; restore it" in answer.complaint
