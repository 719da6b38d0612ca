"""Layout planes: exact small cases, shares that sum to 1, ids that are out of range."""

import pytest
import torch

from generators.encoding import area_pyramid, encode_layout, input_pyramid, instance_edges, one_hot


def labels(seed: int = 0, *, high: int = 5, size: int = 16) -> torch.Tensor:
    return torch.randint(high, (2, size, size), generator=torch.Generator().manual_seed(seed))


def test_the_planes_of_a_layout_name_its_classes():
    planes = one_hot(labels(), num_classes=5)
    torch.testing.assert_close(planes.argmax(1), labels())
    assert planes.sum() == labels().numel()


def test_ignored_pixels_are_in_no_plane():
    ids = torch.tensor([[[0, 255], [1, 1]]], dtype=torch.uint8)
    planes = one_hot(ids, num_classes=2, ignore=255)
    assert planes.sum(1).tolist() == [[[1, 0], [1, 1]]]


@pytest.mark.parametrize("wrong", [7, -1, 255])
def test_an_id_without_a_plane_is_named(wrong):
    ids = labels()
    ids[1, 3, 4] = wrong
    with pytest.raises(ValueError, match=rf"class ids {wrong} in a layout, the renderer knows 0 to 4"):
        one_hot(ids, num_classes=5)


def test_labels_are_integers():
    with pytest.raises(ValueError, match=r"float32 \(2, 16, 16\)"):
        one_hot(labels().float(), num_classes=5)


def test_both_sides_of_a_border_are_edges():
    ids = torch.tensor([[[7, 7, 40000, 40000], [7, 7, 40000, 40000], [7, 7, 7, 7], [7, 7, 7, 7]]], dtype=torch.int32)
    assert instance_edges(ids)[0, 0].tolist() == [[0, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0]]


def test_edges_agree_with_a_loop_over_the_neighbours():
    ids = labels(3, high=3, size=9)
    edges = instance_edges(ids)[:, 0]
    for b, y, x in torch.cartesian_prod(torch.arange(2), torch.arange(9), torch.arange(9)).tolist():
        near = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        differs = any(ids[b, v, u] != ids[b, y, x] for v, u in near if 0 <= v < 9 and 0 <= u < 9)
        assert edges[b, y, x] == differs


def test_class_shares_sum_to_one_and_keep_the_areas_at_every_size():
    planes = one_hot(labels(), num_classes=5)
    for level in area_pyramid(planes, levels=4):
        torch.testing.assert_close(level.sum(1), torch.ones_like(level[:, 0]))
        torch.testing.assert_close(level.mean((2, 3)), planes.mean((2, 3)))


def test_the_pyramid_refuses_sides_it_cannot_halve():
    with pytest.raises(ValueError, match="pad both sides to multiples of 4"):
        area_pyramid(torch.zeros(1, 1, 16, 10), levels=3)


def test_the_input_pyramid_does_not_darken_the_border():
    sizes = input_pyramid(torch.ones(1, 2, 8, 16), levels=3)
    assert [tuple(x.shape[-2:]) for x in sizes] == [(8, 16), (4, 8), (2, 4)]
    assert all((x == 1).all() for x in sizes)


def test_planes_come_in_the_order_classes_edges_styles():
    styles = torch.full((2, 3, 16, 16), 0.5)
    planes = encode_layout(labels(), labels(), styles, num_classes=5)
    assert planes.shape == (2, 9, 16, 16)
    torch.testing.assert_close(planes[:, 5:6], instance_edges(labels()))
    torch.testing.assert_close(planes[:, 6:], styles)
