"""A style edit shows the look that was asked for, where it was asked for: the toy set, trained and edited."""

import numpy as np
import pytest
import torch
from toy_surfaces import COLOURS, DEFECTS, SIDE, ToySource, draw_toy, nearest_class

from fastsynth.quality.truthfulness import leak_ratio, overlap
from generators.batches import components_of
from generators.layout_model import LayoutModel

TRAINING_SEED, EDITED_SEED = 0, 9
PICTURES, EDITED = 200, 20


def picture_of(drawn: torch.Tensor) -> np.ndarray:
    """(3, S, S) in [-1, 1] to (S, S, 3), 0 to 255."""
    found: np.ndarray = (drawn.movedim(0, -1).numpy() + 1) * 127.5
    return found


def centre_of_colour(model: LayoutModel, label: int, colour: int) -> torch.Tensor:
    """The bank centre nearest to how training instances of this colour look on average."""
    styles = []
    for number in range(PICTURES):
        labels, picture, colours = draw_toy(np.random.default_rng((TRAINING_SEED, number)))
        if colours[label] == colour and (labels == label).any():
            image = torch.from_numpy(picture).movedim(-1, 0).float() / 127.5 - 1
            styles.append(model.encode_style(image, torch.from_numpy(labels == label)))
    centres = model.bank.of_class(label)
    return centres[int((centres - torch.stack(styles).mean(0)).norm(dim=1).argmin())]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_style_edits_hit_the_look_and_hardly_leak(fit_pix2pixhd, tmp_path):
    model = fit_pix2pixhd(
        ToySource(PICTURES, seed=TRAINING_SEED),
        tmp_path,
        steps=(900,),
        batch_size=4,
        ema_decay=0.98,
        save_every=900,
        calibration_steps=50,
        generator={"width": 8, "num_downsamples": 2, "num_blocks": 2, "num_enhancer_blocks": 1},
        style_channels=3,
        encoder_width=8,
        discriminator_width=8,
        num_scales=2,
    )
    hits, leaks, found = [], [], []
    wanted = {(label, k): centre_of_colour(model, label, k) for label in DEFECTS for k in range(len(COLOURS[label]))}
    for number in range(EDITED):
        labels, _, _ = draw_toy(np.random.default_rng((EDITED_SEED, number)))
        instances = components_of(labels)
        maps = torch.from_numpy(labels.astype(np.int64)), torch.from_numpy(instances)
        before = picture_of(model.draw(*maps, seed=number))
        for (label, colour), style in wanted.items():
            region = labels == label
            if not region.any():
                continue
            given = dict.fromkeys(np.unique(instances[region]).tolist(), style)
            after = picture_of(model.draw(*maps, seed=number, styles=given))
            distances = np.linalg.norm(COLOURS[label] - after[region].mean(axis=0), axis=1)
            hits.append(distances.argmin() == colour)
            found.append(overlap(nearest_class(after) == label, region))
            if np.abs(after - before)[region].mean() > 1:  # else it had this look before
                leaks.append(leak_ratio(before, after, region))
    assert np.mean(hits) >= 0.6
    assert np.mean(leaks) <= 0.2
    assert np.mean(found) >= 0.5


def test_the_toy_set_is_what_its_colours_say():
    """Real pictures are segmented by nearest colour, up to their grain; every class has all its looks."""
    seen = {label: set() for label in COLOURS}
    for number in range(40):
        labels, picture, colours = draw_toy(np.random.default_rng(number))
        assert picture.shape == (SIDE, SIDE, 3)
        assert (nearest_class(picture.astype(float)) == labels).mean() > 0.99
        for label, colour in colours.items():
            seen[label].add(colour)
    assert {label: len(colours) for label, colours in seen.items()} == {0: 2, 1: 1, 2: 3, 3: 3}
