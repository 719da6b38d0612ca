"""The verbs of the layout renderers, in the test's own process."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from facades import last_losses

from fastsynth.data.manifest import read_manifest
from fastsynth.files import atomic_write
from fastsynth.images import encode_png, read_image, read_mask
from generators.layout_model import LayoutModel
from generators.pix2pixhd import Pix2PixHDGenerator

TRAINING = {
    "stage_steps": [2, 3], "batch_size": 2, "trunk": "random", "calibration_steps": 1, "save_every": 2,
    "sample_every": 2,
}  # fmt: skip
TRAININGS = {"crn": TRAINING, "pix2pixhd": {**TRAINING, "num_scales": 1}}
NETWORKS = {
    "crn": {"widths": [16, 12, 8]},
    "pix2pixhd": {
        "width": 8, "num_downsamples": 2, "num_blocks": 1, "num_enhancer_blocks": 1, "encoder_width": 4,
        "encoder_downsamples": 2, "style_channels": 2,
    },
}  # fmt: skip


@pytest.fixture(params=["crn", "pix2pixhd"])
def kind(request) -> str:
    return request.param


class TestRun:
    def test_the_main_job_trains_renders_audits_and_replays(self, call, kind, write_config, shared_tree, tmp_path):
        renderer = {
            "kind": kind, "crop_size": 32, "network": NETWORKS[kind],
            "training": {**TRAININGS[kind], "defect_crops": 6, "normal_crops": 2},
        }  # fmt: skip
        config = write_config(tmp_path, shared_tree)
        chosen = ("-s", f"renderer={json.dumps(renderer)}", "-s", "generate.count=4", "-s", "generate.gate=null")
        chosen = (*chosen[:4], "-s", "generate.gate.enabled=false")
        refused = call("generate", config, *chosen)
        assert refused.code == 2
        assert "no trained renderer; run `fastsynth train` first" in refused.complaint
        assert "train: 5 steps" in call("train", config, *chosen, "--dry-run").out
        answer = call("train", config, *chosen)
        assert answer.code == 0, answer.err
        model = LayoutModel.from_pretrained(tmp_path / "run" / "model")
        assert (model.kind, model.class_names) == (kind, ("background", "object", "tile/blob", "tile/crack"))
        answer = call("generate", config, *chosen)
        assert answer.code == 0, answer.err
        store = tmp_path / "run" / "synthetic"
        lines = list(read_manifest(store))
        assert [(line["renderer"], line["num_inference_steps"]) for line in lines] == [(kind, 0)] * 4
        assert all(line["model_sha256"] for line in lines)
        assert all(line["truth"]["leak"] == 0 and len(line["truth"]["visible"]) >= 1 for line in lines)
        report = json.loads(call("audit", store, "--data", shared_tree, "--json").out)
        assert (report["samples"], report["problems"]) == (4, [])
        again = call("replay", config, *chosen, "--id", 3, "--output", tmp_path / "again.png")
        assert again.code == 0, again.err

        self.looks_are_edited(call, kind, config, chosen, tmp_path)
        other = call("train", config, *chosen, "-s", f"renderer.network={json.dumps({**NETWORKS[kind], 'x': 1})}")
        assert other.code == 2
        other = call("train", config, *chosen, "-s", "renderer.context=3.0")
        assert other.code == 2
        assert "is trained with renderer.context 2.0" in other.complaint

    def looks_are_edited(self, call, kind, config, chosen, tmp_path):
        """A bank centre and a training defect's look, drawn into a stored sample; the rest of it stays."""
        part, new = tmp_path / "part.json", tmp_path / "new.png"
        split = json.loads((tmp_path / "run" / "split.json").read_text())
        known, hidden = (next(path for path in split[name] if "good" not in path) for name in ("train", "test"))
        assert call("edit", part, "--from-store", config, 0, *chosen).code == 0
        before = read_image(tmp_path / "part_picture.png")
        outside = ~read_mask(tmp_path / "run" / "synthetic" / "tile" / "ground_truth" / "blob" / "000000_mask.png")
        for style in ("centre:0", f"{known}#1"):
            styled = call("edit", part, "--set-style", f"1={style}", "--render", config, *chosen, "--output", new)
            if kind == "crn":
                assert styled.code == 2
                assert "renderer crn knows seeds only" in styled.complaint
            else:
                assert styled.code == 0, styled.err
                changed = (read_image(new) != before).any(axis=2)
                assert changed[~outside].any()
                assert not changed[outside].any()
                (line, *_) = read_manifest(tmp_path / "run" / "synthetic")
                assert json.loads((tmp_path / "new.json").read_text())["model_sha256"] == line["model_sha256"]
        if kind == "pix2pixhd":
            for style, message in (
                (f"{hidden}#1", "is not among the training defects of this run"),
                (f"{known}#9", "has no instance 9; its 1 count from 1"),
                ("centre:99", "centre 99 of class 2; the style bank has"),
            ):
                refused = call("edit", part, "--set-style", f"1={style}", "--render", config, *chosen)
                assert refused.code == 2
                assert message in refused.complaint


class TestPhoto:
    @pytest.fixture
    def config(self, kind, pair_folder, tmp_path):
        values = {
            "output": str(tmp_path / "photos"),
            "device": "cpu",
            "data": {
                "photos": str(pair_folder / "photos"), "layouts": str(pair_folder / "layouts"), "load_size": 32,
                "crop_size": 32, "held_out": 4,
                "classes": {"wall": [40, 40, 200], "door": [200, 60, 40], "window": [60, 190, 90]},
            },
            "renderer": {"kind": kind, "network": NETWORKS[kind], "training": TRAININGS[kind]},
        }  # fmt: skip
        path = tmp_path / "photos.yaml"
        path.write_text(yaml.safe_dump(values, sort_keys=False))
        return path

    def test_training_leaves_a_model_and_a_sheet_and_is_done_once(self, call, config, kind, pair_folder, tmp_path):
        answer = call("photo", "train", config)
        assert answer.code == 0, answer.err
        assert answer.out == f"{tmp_path / 'photos' / 'sheet.png'}\n"
        model = LayoutModel.from_pretrained(tmp_path / "photos" / "model")
        assert (model.kind, model.class_names, model.fills_holes) == (kind, ("wall", "door", "window"), False)
        sheet = (tmp_path / "photos" / "sheet.png").read_bytes()
        log = (tmp_path / "photos" / "log.jsonl").read_text()
        losses = last_losses(log.splitlines())  # what the benchmark of the facades reads
        assert all("l1" in of_stage for of_stage in losses.values())
        assert len(losses) == len(TRAINING["stage_steps"])
        assert call("photo", "train", config).out == answer.out
        assert (tmp_path / "photos" / "sheet.png").read_bytes() == sheet
        assert (tmp_path / "photos" / "log.jsonl").read_text() == log
        assert [(json.loads(line)["part"], json.loads(line)["step"]) for line in log.splitlines()] == [
            ("1 of 2", 2),
            ("2 of 2", 5),
        ]
        drawn = call("photo", "draw", config, pair_folder / "layouts", "--output", tmp_path / "drawn", "--looks", 2)
        assert drawn.out == f"{tmp_path / 'drawn'}: 24 pictures\n", drawn.err
        assert read_image(tmp_path / "drawn" / "11-2.png").shape == (32, 32, 3)
        measured = call("photo", "evaluate", config, "--json", "-s", "data.held_out=3")
        assert measured.code == 2
        assert "hold at least 4 pairs out" in measured.complaint
        other = call("photo", "train", config, "--seed", 1)
        assert other.code == 2
        assert "choose another output" in other.complaint

    def test_what_it_draws_of_hidden_layouts_is_measured_beside_a_baseline(self, call, config, kind, tmp_path):
        missing = call("photo", "evaluate", config)
        assert missing.code == 2
        assert "no layout renderer" in missing.complaint
        assert call("photo", "train", config).code == 0
        answer = call("photo", "evaluate", config, "--json")
        assert answer.code == 0, answer.err
        found = json.loads(answer.out)
        assert found == json.loads((tmp_path / "photos" / "quality.json").read_text())
        assert found["kid"].keys() == {"renders", "nearest", "training"}
        assert found["pictures"] == 4
        assert ("leak" in found) == (kind == "pix2pixhd")
        # networks of five steps draw no photos
        assert found["kid"]["renders"]["mean"] > found["kid"]["training"]["mean"]

    @pytest.mark.slow
    def test_of_two_processes_one_writes(self, cli, config, tmp_path):
        answer = cli("photo", "train", config, processes=2)
        assert answer.code == 0, answer.err
        log = (tmp_path / "photos" / "log.jsonl").read_text()
        assert [json.loads(line)["step"] for line in log.splitlines()] == [2, 5]
        assert (tmp_path / "photos" / "sheet.png").is_file()

    def test_nothing_is_trained_on_over_changed_pictures(self, call, config, kind, pair_folder, tmp_path):
        shutil.copytree(pair_folder, tmp_path / "pairs")
        moved = [f"data.{name}={tmp_path / 'pairs' / name}" for name in ("photos", "layouts")]
        arguments = ("photo", "train", config, *(part for value in moved for part in ("-s", value)))
        assert call(*arguments).code == 0
        layout = tmp_path / "pairs" / "layouts" / "3.png"
        atomic_write(layout, encode_png(read_image(layout)[::-1].copy()))
        finished = call(*arguments)
        assert finished.code == 2
        assert "was trained on other pictures" in finished.complaint
        shutil.rmtree(tmp_path / "photos" / "model")
        begun = call(*arguments)
        assert begun.code == 2
        assert "is of a training with other settings or images" in begun.complaint

    def test_instances_and_device_are_those_that_are_asked_for(self, call, config, kind, pair_folder, tmp_path):
        assert call("photo", "train", config).code == 0
        for path in (pair_folder / "layouts").iterdir():  # one instance, where regions would be counted
            atomic_write(tmp_path / "ids" / path.name, encode_png(np.zeros((32, 32), np.uint16)))
        drawn = {}
        for name, options in {"regions": (), "one": ("--instances", tmp_path / "ids")}.items():
            answer = call("photo", "draw", config, pair_folder / "layouts", "--output", tmp_path / name, *options)
            assert answer.code == 0, answer.err
            drawn[name] = read_image(tmp_path / name / "0-1.png")
        assert (drawn["regions"] != drawn["one"]).any() == (kind == "pix2pixhd")  # CRN has no styles here, nor edges
        (tmp_path / "ids" / "3.png").unlink()
        for verb in (("draw", config, pair_folder / "layouts", "--output", tmp_path / "new"), ("evaluate", config)):
            absent = call("photo", *verb, "--device", "mps")
            assert (absent.code, "device is mps, but this machine has cpu" in absent.complaint) == (2, True)
            other = call("photo", *verb, "-s", "data.classes={wall: [40, 40, 200], door: [200, 60, 40]}")
            assert other.code == 2
            assert "knows the classes wall, door, window, data.classes has wall, door;" in other.complaint
        missing = call("photo", *("draw", config, pair_folder / "layouts", "--output", tmp_path / "new"),
                       "--instances", tmp_path / "ids")  # fmt: skip
        assert missing.code == 2
        assert "layouts: 3; add or remove" in missing.complaint

    def test_nothing_is_drawn_before_training(self, call, config, pair_folder, tmp_path):
        answer = call("photo", "draw", config, pair_folder / "layouts", "--output", tmp_path / "drawn")
        assert answer.code == 2
        assert "no layout renderer" in answer.complaint

    def test_mistakes_are_one_line(self, call, config, kind, pair_folder, tmp_path):
        for override, message in (
            ("data.photos=nowhere", "nowhere: no such folder"),
            ("data.crop_size=64", "crop_size 64 is larger than load_size 32"),
            ("data.held_out=12", "12 pairs, of which 12 are held out"),
            ("renderer.training.stage_step=[1]", "did you mean 'stage_steps'?"),
            ("renderer.kind=spade", "pix2pixhd"),
        ):
            answer = call("photo", "train", config, "-s", override)
            assert answer.code == 2, override
            assert message in answer.complaint
        deep = {"crn": "renderer.network.widths=[8,8,8,8,8]", "pix2pixhd": "renderer.network.num_downsamples=4"}
        answer = call("photo", "train", config, "-s", deep[kind])
        assert answer.code == 2
        assert "data.crop_size is 32; " in answer.complaint
        assert "need a multiple of" in answer.complaint


class TestImport:
    def test_a_published_network_becomes_a_folder_that_draws(self, call, tmp_path):
        from generators.importing import generator_names

        with torch.random.fork_rng():
            torch.manual_seed(0)
            ours = Pix2PixHDGenerator(
                3, width=4, num_downsamples=2, num_blocks=1, norm="instance", upsampling="transposed"
            ).eval()
        state = ours.state_dict()
        names = generator_names(2, 1, enhancers=0, enhancer_blocks=3)
        theirs = {f"{a}.{part}": state[f"{b}.{part}"] for a, b in names.items() for part in ("weight", "bias")}
        torch.save(theirs, tmp_path / "latest_net_G.pth")
        answer = call("import", "pix2pixhd", tmp_path / "latest_net_G.pth", "--output", tmp_path / "model")
        assert answer.code == 0, answer.err
        assert "3 classes" in answer.out
        model = LayoutModel.from_pretrained(tmp_path / "model")
        labels = torch.arange(3).repeat_interleave(32)[:, None].expand(96, 64)
        drawn = model.draw(labels, labels, seed=0)
        from generators.encoding import encode_layout

        with torch.no_grad():
            wanted = ours(encode_layout(labels[None], labels[None], num_classes=3))[0]
        torch.testing.assert_close(drawn, wanted, atol=1e-4, rtol=0)

        grey = {str(number): 10 * number for number in range(3)}
        data = {"photos": str(tmp_path), "classes": grey, "load_size": 64, "crop_size": 64}
        values = {"output": str(tmp_path), "data": data, "renderer": {"kind": "pix2pixhd"}}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
        atomic_write(tmp_path / "maps" / "a.png", encode_png(10 * labels.numpy().astype(np.uint8)))
        options = ("--output", tmp_path / "drawn", "--looks", "1")
        assert call("photo", "draw", tmp_path / "config.yaml", tmp_path / "maps", *options).code == 0
        picture = read_image(tmp_path / "drawn" / "a-1.png")
        np.testing.assert_allclose(picture, (wanted.permute(1, 2, 0).numpy() + 1) * 127.5, atol=1)

        again = call("import", "pix2pixhd", tmp_path / "latest_net_G.pth", "--output", tmp_path / "model")
        assert again.code == 2
        assert "exists; choose a new folder" in again.complaint
        theirs["model.4.weight"] = theirs["model.4.weight"][:, :2]
        torch.save(theirs, tmp_path / "other.pth")
        wrong = call("import", "pix2pixhd", tmp_path / "other.pth", "--output", tmp_path / "new")
        assert wrong.code == 2
        assert "tensor model.4.weight is (8, 2, 3, 3), this network has (8, 4, 3, 3)" in wrong.complaint
        missing = call("import", "pix2pixhd", tmp_path / "nothing.pth", "--output", tmp_path / "new")
        assert (missing.code, (tmp_path / "new").exists()) == (2, False)
