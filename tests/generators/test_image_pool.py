"""The pool of earlier renders: nothing is lost or doubled, half come from the past, a resumed one goes on the same."""

import torch

from generators.image_pool import ImagePool


def pool(size: int) -> ImagePool:
    return ImagePool(size, generator=torch.Generator().manual_seed(0))


def numbered(first: int, count: int) -> torch.Tensor:
    return torch.arange(first, first + count, dtype=torch.float32).view(-1, 1, 1, 1)


def test_an_empty_pool_hands_out_what_comes_in():
    torch.testing.assert_close(pool(0).exchange(numbered(0, 4)), numbered(0, 4))


def test_while_it_fills_it_hands_out_what_comes_in():
    torch.testing.assert_close(pool(4).exchange(numbered(0, 4)), numbered(0, 4))


def test_every_pair_is_handed_out_once_or_still_kept():
    mine = pool(5)
    fill = mine.exchange(numbered(0, 5))  # these come back once more, from the pool
    out = torch.cat([mine.exchange(numbered(5 + 3 * i, 3)) for i in range(20)])
    seen = sorted([*out.flatten().tolist(), *(float(pair) for pair in mine.kept)])
    assert seen == [*map(float, range(65))]
    assert len(fill) == 5


def test_half_of_what_it_hands_out_is_from_the_past():
    mine = pool(10)
    mine.exchange(numbered(0, 10))
    fresh = numbered(10, 2000)
    share = (mine.exchange(fresh) == fresh).float().mean()
    assert 0.45 < share < 0.55


def test_a_resumed_pool_goes_on_as_if_uninterrupted():
    mine, resumed = pool(3), pool(3)
    mine.exchange(numbered(0, 7))
    resumed.load_state_dict(mine.state_dict())
    torch.testing.assert_close(resumed.exchange(numbered(7, 20)), mine.exchange(numbered(7, 20)))
