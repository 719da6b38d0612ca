"""Styles: pooling against a loop, encoder size, banks with empty classes, K-means against scipy."""

import itertools

import numpy as np
import pytest
import torch

from generators.kmeans import inertia, kmeans
from generators.style import (
    StyleBank,
    StyleEncoder,
    find_segments,
    noise_style,
    paint_styles,
    pool_instances,
)


def features(seed: int = 0, *, channels: int = 3) -> torch.Tensor:
    return torch.randn((2, channels, 16, 16), generator=torch.Generator().manual_seed(seed))


def instances(ids=(0, 26001, 26002, 33001)) -> torch.Tensor:
    """Two images that share their ids, pixels scattered."""
    index = torch.randint(len(ids), (2, 16, 16), generator=torch.Generator().manual_seed(1))
    return torch.tensor(ids)[index]


def pooled_by_loop(values: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    out = torch.empty_like(values)
    for b in range(len(ids)):
        for number in set(ids[b].flatten().tolist()):
            inside = ids[b] == number
            for c in range(values.shape[1]):
                out[b, c][inside] = values[b, c][inside].mean()
    return out


def blobs(rng: np.random.Generator, centres, *, each: int = 30) -> np.ndarray:
    return np.concatenate([centre + 0.05 * rng.standard_normal((each, len(centre))) for centre in np.array(centres)])


def encoder(**arguments) -> StyleEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return StyleEncoder(**{"width": 8, "num_downsamples": 2, **arguments})


class TestPooling:
    @pytest.mark.parametrize("ids", [(0, 1, 2), (0, 26001, 26002, 33001), (-5, 255, 2**40, 70000), (9,)])
    def test_it_is_the_mean_over_each_instance_of_each_image(self, ids):
        found = pool_instances(features(), instances(ids))
        torch.testing.assert_close(found, pooled_by_loop(features(), instances(ids)), atol=1e-6, rtol=1e-5)

    def test_8_and_16_bit_ids_are_not_scaled(self):
        ids = instances((0, 100, 200))
        for kind in (torch.uint8, torch.int16, torch.int32):
            torch.testing.assert_close(pool_instances(features(), ids.to(kind)), pool_instances(features(), ids))

    def test_another_image_in_the_batch_changes_nothing(self):
        other = features()
        other[1] += 10
        torch.testing.assert_close(pool_instances(other, instances())[0], pool_instances(features(), instances())[0])

    def test_the_gradient_of_a_mean_goes_to_its_pixels_evenly(self):
        x = features().requires_grad_()
        inside = instances()[0] == 26001
        y, x_ = torch.nonzero(inside)[0].tolist()
        pool_instances(x, instances())[0, 1, y, x_].backward()
        wanted = torch.zeros_like(x)
        wanted[0, 1][inside] = 1 / inside.sum()
        torch.testing.assert_close(x.grad, wanted)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_large_instances_keep_their_mean_in_half_precision(self, dtype):
        half = torch.full((1, 2, 512, 512), 0.5, dtype=dtype)
        assert torch.equal(pool_instances(half, torch.zeros(1, 512, 512, dtype=torch.int64)), half)

    def test_segments_know_image_id_and_area(self):
        segments = find_segments(instances())
        for s, (b, number, area) in enumerate(zip(*(t.tolist() for t in segments[1:]), strict=True)):
            assert area == (instances()[b] == number).sum() == (segments.of_pixel[b] == s).sum()

    def test_ids_are_integers(self):
        with pytest.raises(ValueError, match="pass integer ids"):
            pool_instances(features(), features()[:, 0])


class TestPainting:
    def test_each_instance_is_filled_with_its_vector(self):
        ids = instances()[0]
        styles = {number: torch.full((3,), float(i)) for i, number in enumerate(sorted(set(ids.flatten().tolist())))}
        planes = paint_styles(ids, styles)
        assert planes.shape == (3, 16, 16)
        for number, vector in styles.items():
            assert (planes[:, ids == number] == vector[:, None]).all()

    def test_an_instance_without_a_style_is_named(self):
        with pytest.raises(ValueError, match=r"instances \[26001"):
            paint_styles(instances()[0], {0: torch.zeros(3), 26002: torch.zeros(3)})

    def test_noise_is_a_matter_of_the_generator(self):
        first, again, other = (noise_style(4, generator=torch.Generator().manual_seed(s)) for s in (3, 3, 4))
        torch.testing.assert_close(first, again, rtol=0, atol=0)
        assert (first != other).any()


class TestEncoder:
    @pytest.mark.parametrize(("width", "num_downsamples", "count"), [(16, 4, 788_803), (8, 2, 13_955), (8, 3, 50_915)])
    def test_it_has_the_published_size(self, width, num_downsamples, count):
        with torch.device("meta"):
            model = StyleEncoder(width=width, num_downsamples=num_downsamples)
        assert sum(p.numel() for p in model.parameters()) == count

    def test_styles_are_constant_on_an_instance_and_differ_between_them(self):
        styles = encoder()(features(), instances())
        torch.testing.assert_close(styles, pooled_by_loop(styles, instances()), atol=1e-6, rtol=1e-5)
        assert styles[0].flatten(1).unique(dim=1).shape[1] == 4

    def test_it_refuses_sides_it_cannot_halve(self):
        with pytest.raises(ValueError, match="multiples of 4"):
            encoder()(features()[..., :14], instances()[..., :14])

    def test_a_saved_encoder_comes_back(self, tmp_path):
        encoder(upsampling="resize").save_pretrained(tmp_path)
        found = StyleEncoder.from_pretrained(tmp_path)(features(), instances())
        torch.testing.assert_close(found, encoder(upsampling="resize")(features(), instances()), rtol=0, atol=0)


class TestKMeans:
    @pytest.mark.parametrize("seed", range(3))
    def test_with_few_vectors_it_finds_the_best_of_all_partitions(self, seed):
        vectors = np.random.default_rng(5).standard_normal((8, 2))
        best = min(
            sum(((part - part.mean(0)) ** 2).sum() for part in (vectors[chosen], vectors[~chosen]))
            for chosen in map(np.array, itertools.product([False, True], repeat=8))
            if chosen.any() and not chosen.all()
        )
        assert inertia(vectors, kmeans(vectors, 2, rng=np.random.default_rng(seed))) == pytest.approx(best)

    def test_there_are_never_more_centres_than_different_vectors(self):
        vectors = np.repeat([[0.0, 1.0], [2.0, 3.0]], 5, axis=0)
        found = kmeans(vectors, 10, rng=np.random.default_rng(0))
        np.testing.assert_allclose(found[found[:, 0].argsort()], [[0, 1], [2, 3]])


class TestBank:
    looks = ([0.9, 0.0, 0.0], [-0.9, 0.0, 0.0], [0.0, 0.9, 0.9])

    def bank(self, **arguments) -> StyleBank:
        """Class 0: two looks. Class 2: one look. Class 1 and 3: none."""
        rng = np.random.default_rng(0)
        vectors = np.concatenate([blobs(rng, self.looks[:2]), blobs(rng, self.looks[2:])])
        classes = [0] * 60 + [2] * 30
        return StyleBank.fit(vectors, classes, num_classes=4, num_centres=2, rng=np.random.default_rng(1), **arguments)

    def test_centres_are_the_looks_of_their_class(self):
        found = self.bank().of_class(0)
        torch.testing.assert_close(found[found[:, 0].argsort()], torch.tensor(self.looks)[[1, 0]], atol=0.05, rtol=0)

    def test_one_small_instance_is_enough(self):
        bank = StyleBank.fit(np.array([[0.1, 0.2, 0.3]]), [1], num_classes=2, rng=np.random.default_rng(0))
        torch.testing.assert_close(bank.of_class(1), torch.tensor([[0.1, 0.2, 0.3]]))

    def test_a_class_without_instances_gets_the_average_look(self):
        torch.testing.assert_close(
            self.bank().draw(1, generator=torch.Generator()), torch.tensor([0.0, 0.3, 0.3]), atol=0.03, rtol=0
        )

    def test_drawing_gives_every_centre_and_only_those_of_the_class(self):
        bank, generator = self.bank(), torch.Generator().manual_seed(0)
        drawn = torch.stack([bank.draw(0, generator=generator) for _ in range(40)]).unique(dim=0)
        torch.testing.assert_close(drawn, bank.of_class(0).unique(dim=0), rtol=0, atol=0)

    def test_a_bank_belongs_to_its_encoder(self, tmp_path):
        mine, other = encoder(), encoder()
        with torch.no_grad():
            other.head.conv.bias += 1e-3
        self.bank(encoder=mine).save_pretrained(tmp_path)
        bank = StyleBank.from_pretrained(tmp_path)
        for name, tensor in self.bank(encoder=mine).state_dict().items():
            torch.testing.assert_close(bank.state_dict()[name], tensor, rtol=0, atol=0)
        bank.check_encoder(mine)
        with pytest.raises(ValueError, match="build the bank again"):
            bank.check_encoder(other)

    def test_mistakes_are_named(self):
        rng = np.random.default_rng(0)
        with pytest.raises(ValueError, match="0 styles for 0 instances"):
            StyleBank.fit(np.zeros((0, 3)), [], num_classes=2, rng=rng)
        with pytest.raises(ValueError, match="class ids from 0 to 2, the bank has 0 to 1"):
            StyleBank.fit(np.zeros((2, 3)), [0, 2], num_classes=2, rng=rng)
        with pytest.raises(ValueError, match="class 4; the style bank has 0 to 3"):
            self.bank().of_class(4)
