"""The cost of the renderers: measuring one network keeps what is recorded of the others."""

from renderers import CASES, merged


def row(case: tuple[str, int, bool], seconds: float) -> dict[str, object]:
    network, height, banded = case
    return {"network": network, "height": height, "banded": banded, "seconds": seconds}


def test_new_rows_replace_those_of_their_case_and_the_others_stay_in_order():
    old = [row(case, 1.0) for case in reversed(CASES[2:])]
    new = [row(case, 2.0) for case in CASES if case[0] == "pix2pixhd global"]
    expected = [row(case, 2.0 if case[0] == "pix2pixhd global" else 1.0) for case in CASES[2:]]
    assert merged(old, new) == expected
    gone = row(("spade", 512, True), 1.0)
    assert merged([gone], new) == new
