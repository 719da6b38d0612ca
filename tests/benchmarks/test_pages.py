"""The pages in docs/ say what the committed results say."""

import json

import pages


def test_every_generated_page_is_that_of_the_committed_results():
    generated = pages.pages()
    assert {"magnetic_tile", "when_synthesis_helps", "autoencoder"} <= generated.keys()
    for name, text in generated.items():
        assert (pages.ROOT / "docs" / f"{name}.md").read_text() == text, f"{name}: run python benchmarks/pages.py"


def test_a_difference_is_called_a_gain_only_with_its_whole_interval():
    verdict = json.loads((pages.RESULTS / "magnetic_tile.json").read_text())
    for low, high, word in ((0.01, 0.2, "**gain**"), (-0.2, -0.01, "**loss**"), (-0.1, 0.2, "not measurable")):
        found = {**verdict["differences"][0], "metric": "miou", "low": low, "high": high}
        rows = pages.overview_page({"tiles": {**verdict, "differences": [found]}}, "").splitlines()
        assert next(row for row in rows if row.startswith("| [tiles]")).endswith(f"| {word} |")
