import base64
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fastsynth.files import write_json
from fastsynth.report.html import write_report

VOID = {"meta", "img"}


class Page(HTMLParser):
    """Collects the visible text and every tag, and fails on tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if "style" not in self._open:
            self.text += data


def report(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def text(finished_run) -> str:
    return (finished_run / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text) -> Page:
    return Page(text)


def test_the_page_fetches_nothing_and_runs_nothing(text, page):
    assert "://" not in text
    assert "@import" not in text
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object")
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/"))


def test_every_reference_inside_a_drawing_finds_its_target(text):
    ids = set(re.findall(r'\bid="([^"]+)"', text))
    references = {*re.findall(r'href="#([^"]+)"', text), *re.findall(r"url\(#([^)]+)\)", text)}
    assert references
    assert references <= ids


def test_the_same_run_gives_the_same_bytes(finished_run, text):
    assert write_report(finished_run).read_text(encoding="utf-8") == text


def test_the_verdict_stands_on_top_and_the_numbers_below(page):
    verdict = page.text.index("Synthetic data helps: +5.2 mIoU points")
    order = [page.text.index(title) for title in ("Scores on", "Differences", "From drawn", "Time and", "To repeat")]
    assert [verdict, *order] == sorted([verdict, *order])
    assert ("div", {"class": "verdict helps"}) in page.tags


@pytest.mark.parametrize(
    "shown",
    [
        "of 400 asked for; 444 made, 44 rejected",
        "no visible defect 11",
        "70.0 min",
        "fastsynth run configs/magnetic_tile.yaml --seed 7",
        "run seed",
        "0, 1, 2",
        "The renderer's model: 3,000 steps in 70.0 min",
        "0.02 – 0.21",  # seconds per image
        "2.2 GB",  # peak memory
        "sha256 9f2c41d08be3",
        "SHA-256 of split.json",
        "torch 2.14.1",
        "Empty mask",
        "at least one of its pixels",
        "num_inference_steps: 10",
    ],
)
def test_the_page_tells(page, shown):
    assert shown in page.text


def test_pictures_are_embedded_byte_for_byte(finished_run, page):
    (source,) = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    data = base64.b64decode(source.removeprefix("data:image/png;base64,"))
    assert data == (finished_run / "sheet.png").read_bytes()


def test_an_empty_run_folder_gives_a_page_that_says_what_is_missing(tmp_path):
    (tmp_path / "log.jsonl").touch()
    text = report(tmp_path).text
    for sentence in (
        "There is no verdict yet",
        "No segmenter has been evaluated",
        "There is nothing to compare yet",
        "There is no contact sheet",
        "No synthetic images have been made",
        "Nothing has been trained",
        "No segmenter has been timed",
        "holds no environment.json",
    ):
        assert sentence in text


def test_any_missing_part_is_left_out(run_folder):
    for name in ("segment", "metrics.json", "log.jsonl", "synthetic", "split.json", "sheet.png", "environment.json"):
        (run_folder / name).rename(run_folder.parent / name)
        assert "To repeat this run" in report(run_folder).text


def test_a_training_too_short_for_curves_is_told_of(tmp_path):
    write_json(tmp_path / "model" / "training.json", {"steps": 3, "minutes": 0.01})
    text = report(tmp_path).text
    assert "The renderer's model: 3 steps in 0.0 min" in text
    assert "Nothing has been trained" not in text


def test_names_from_the_data_cannot_become_markup(run_folder):
    shutil.rmtree(run_folder / "segment")
    for name in ("metrics.json", "synthetic/manifest.jsonl", "synthetic/rejected/rejected.jsonl"):
        path = run_folder / name
        path.write_text(path.read_text().replace("crack", "<script>$x_1$<b>"))
    page = report(run_folder)
    assert "script" not in {tag for tag, _ in page.tags}
    assert "<script>$x_1$<b>" in page.text


def test_a_log_that_is_still_being_written_can_be_read(tmp_path):
    lines = [f'{{"stage": "train fast", "step": {step}, "loss": 1.0}}\n' for step in range(3)]
    (tmp_path / "log.jsonl").write_text("".join(lines) + '{"stage": "train fa')
    assert "train fast: loss" in report(tmp_path).text


def test_a_folder_that_is_no_run_s_gets_no_report(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(FileNotFoundError, match="nothing of a run is here; name a folder that"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_errors_name_the_file(run_folder):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        write_report(run_folder / "nowhere")
    (run_folder / "metrics.json").write_text("{")
    with pytest.raises(ValueError, match=r"metrics\.json"):
        write_report(run_folder)
