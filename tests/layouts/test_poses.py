"""Laws of the poses: undone is upright, only what is allowed is drawn, and all of that."""

import numpy as np
import pytest

from fastsynth.layouts.poses import ALL_POSES, Pose, Poses

PICTURE = np.random.default_rng(0).random((2, 5, 5))


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("axes", [(), (0,), (1,), (0, 1)])
def test_a_pose_undone_is_the_picture(turns, axes):
    pose = Pose(turns, axes)
    np.testing.assert_array_equal(pose.undone(pose.of(PICTURE)), PICTURE)


def test_turns_come_before_mirrors():
    corner = np.zeros((1, 3, 3))
    corner[0, 0, 0] = 1  # upper left; turned counter-clockwise lower left, then upside down upper left again
    assert Pose(1, ()).of(corner)[0, 2, 0] == 1
    assert Pose(1, (0,)).of(corner)[0, 0, 0] == 1


@pytest.mark.parametrize(
    ("poses", "count"),
    [(Poses((0,), flip=False), 1), (Poses((0,), flip=True), 4), (Poses((0, 2), flip=True), 4), (ALL_POSES, 8)],
)
def test_all_allowed_poses_are_drawn_and_no_other(poses, count):
    rng = np.random.default_rng(0)
    assert len({poses.drawn(rng).of(PICTURE).tobytes() for _ in range(200)}) == count
