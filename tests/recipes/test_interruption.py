import json
import re
import signal

import numpy as np


def written(folder) -> int:
    return sum(1 for _ in folder.rglob("*.png"))


def test_a_run_killed_again_and_again_ends_in_the_same_bytes(
    whole_run, cli, write_config, shared_tree, tmp_path, contents
):
    """At random moments of training and generating; the other run was made in one go, in another folder."""
    config, folder = write_config(tmp_path, shared_tree), tmp_path / "run"
    rng = np.random.default_rng(0)

    half_trained = lambda: any((folder / "checkpoints").glob("checkpoint-*"))  # noqa: E731
    assert cli.stop_when(half_trained, "train", config, by=signal.SIGKILL).code == -signal.SIGKILL
    assert not (folder / "model" / "model_index.json").exists()
    assert cli("train", config).code == 0
    weights = {name: data for name, data in contents(folder / "model").items() if name.endswith(".safetensors")}
    assert weights.items() <= contents(whole_run.folder / "model").items()

    store = folder / "synthetic"
    for pictures in sorted(rng.choice(np.arange(1, 20), 4, replace=False)):
        enough = lambda pictures=pictures: written(store) >= pictures  # noqa: E731
        assert cli.stop_when(enough, "generate", config, by=signal.SIGKILL).code == -signal.SIGKILL
    assert cli("generate", config).code == 0
    assert contents(store) == contents(whole_run.store)


def test_what_was_removed_from_a_store_is_made_again(whole_run, copied_run, cli, contents):
    manifest = copied_run.store / "manifest.jsonl"
    lines = manifest.read_text().splitlines(keepends=True)
    for line in (lines[0], lines[9]):
        (copied_run.store / json.loads(line)["image"]).unlink()
    (copied_run.store / json.loads(lines[4])["mask"]).unlink()
    manifest.write_text("".join(lines[1:4] + lines[5:8] + lines[9:]))
    assert cli("generate", copied_run.config).code == 0
    assert contents(copied_run.store) == contents(whole_run.store)


def test_ctrl_c_ends_with_130_and_one_line_and_the_same_command_continues(whole_run, copied_run, cli, contents):
    begun = lambda: written(copied_run.store) > 20  # noqa: E731
    answer = cli.stop_when(begun, "generate", copied_run.config, "-s", "generate.count=500", by=signal.SIGINT)
    assert answer.code == 130
    assert answer.complaint == "fastsynth: stopped; run the same command again to continue"
    assert 20 < written(copied_run.store) < 1000
    for picture in copied_run.store.rglob("*.png"):
        if int(picture.name[:6]) >= 10:
            picture.unlink()
    assert cli("generate", copied_run.config).code == 0
    assert contents(copied_run.store) == contents(whole_run.store)


def test_a_full_disk_names_the_file_and_the_same_command_finishes_the_work(whole_run, copied_run, cli, contents):
    (copied_run.store / "manifest.jsonl").unlink()
    images = {path: path.stat().st_size for path in copied_run.store.glob("tile/train/*/*.png")}
    for path in images:
        path.unlink()
    answer = cli("generate", copied_run.config, largest_file=min(images.values()) - 1)
    assert answer.code == 1
    assert re.search(rf"{copied_run.folder}/\S+: File too large; free some", answer.complaint)
    assert not list(copied_run.store.rglob(".tmp-*"))
    assert cli("generate", copied_run.config).code == 0
    assert contents(copied_run.store) == contents(whole_run.store)


def test_a_disk_full_of_weights_is_one_line_and_training_goes_on_from_there(whole_run, cli, write_config, tmp_path):
    config = write_config(tmp_path, whole_run.data)
    answer = cli("train", config, largest_file=100_000)
    assert answer.code == 1
    assert "free some space and run the same command again" in answer.complaint
    assert cli("train", config).code == 0
    unet = "unet/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "run" / "model" / unet).read_bytes() == (whole_run.folder / "model" / unet).read_bytes()


def test_replay_makes_the_stored_bytes_again(whole_run, cli, tmp_path):
    line = json.loads((whole_run.store / "manifest.jsonl").read_text().splitlines()[9])
    answer = cli("replay", whole_run.config, "--id", 9, "--output", tmp_path / "again.png")
    assert (answer.code, answer.out) == (0, f"{tmp_path / 'again.png'}: the stored bytes\n")
    assert (tmp_path / "again.png").read_bytes() == (whole_run.store / line["image"]).read_bytes()


def test_replay_says_when_other_settings_give_other_bytes(whole_run, cli, tmp_path):
    options = ("--id", 3, "--output", tmp_path / "again.png", "-s", "renderer.num_inference_steps=1")
    answer = cli("replay", whole_run.config, *options)
    assert answer.code == 3
    assert "differs from the stored image" in answer.out


def test_replay_of_a_sample_that_is_not_there_says_so(whole_run, cli, tmp_path):
    answer = cli("replay", whole_run.config, "--id", 10, "--output", tmp_path / "again.png")
    assert answer.code == 2
    assert "no sample 000010" in answer.complaint
    assert not (tmp_path / "again.png").exists()
