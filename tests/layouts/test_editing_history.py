"""Undo, redo and JSON: replaying gives the same arrays, whatever the edits; and nothing in a file is believed."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from fastsynth.layouts.editing_history import History, RunLengths, parse_edit
from fastsynth.layouts.layout_json import LayoutDocument, PictureData, dump_document, parse_document
from fastsynth.types import CentreStyle, Instance, Layout, ReferenceStyle, SeedStyle, Warp

BACKGROUND = np.zeros((30, 50, 3), np.uint8)
FILE = PictureData(file="a.png", sha256="0" * 64)
MOVE = {"op": "move", "id": 1, "dx": 2, "dy": 1}
BLOB = {"size": [2, 3], "counts": [0, 4, 1, 1]}

masks = st.builds(
    lambda seed, height, width: np.random.default_rng(seed).random((height, width)) < 0.4,
    st.integers(0, 10_000),
    st.integers(1, 20),
    st.integers(1, 20),
)
styles = st.one_of(
    st.none(),
    st.builds(SeedStyle, st.integers(0, 2**63 - 1)),
    st.builds(CentreStyle, st.integers(0, 100)),
    st.builds(ReferenceStyle, st.sampled_from(["test/a.png", "ä/b c.png"]), st.integers(1, 9)),
)
floats = st.floats(-1e6, 1e6)
warps = st.none() | st.builds(
    Warp, st.just("gt/x.png"), st.tuples(*[floats] * 6), seed=st.integers(0, 2**31), amplitude=st.floats(0, 9)
)


def tight(mask: np.ndarray) -> np.ndarray:
    mask = mask.copy()
    mask[0, 0] = mask[-1, -1] = True
    return mask


@st.composite
def layouts(draw) -> Layout:
    instances = [
        Instance(
            number,
            draw(st.sampled_from(["pit", "große Delle"])),
            tight(draw(masks)),
            draw(st.integers(0, 30)),
            draw(st.integers(0, 10)),
            warp=draw(warps),
            shape_source=draw(st.sampled_from(["", "gt/x.png"])),
            style=draw(styles),
            locked=draw(st.booleans()),
            severity=draw(st.floats(0.25, 4)),
        )
        for number in draw(st.sampled_from([(), (1,), (3, 1), (2, 65535)]))
    ]
    return Layout(BACKGROUND, "tile/train/good/0.png", "tile", tuple(instances))


def block_layout() -> Layout:
    block = np.ones((4, 5), bool)
    return Layout(
        BACKGROUND, "good/0.png", "tile", (Instance(1, "pit", block, 3, 3), Instance(2, "dent", block, 20, 9))
    )


def document(history: History | None = None) -> LayoutDocument:
    return LayoutDocument.of(history or History(block_layout()), seed=5, background=FILE, picture=None)


def same(first: Layout, second: Layout) -> bool:
    def plain(layout):
        return [{**vars(i), "mask": i.mask.tolist()} for i in layout.instances]

    return plain(first) == plain(second)


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # of pycocotools
@settings(max_examples=25, deadline=None)
@given(masks)
def test_run_lengths_are_those_of_coco_and_come_back_bit_for_bit(mask):
    lengths = RunLengths.of(mask)
    packed = coco.frPyObjects({"size": list(mask.shape), "counts": lengths.counts}, *mask.shape)
    np.testing.assert_array_equal(coco.decode(packed), mask)
    np.testing.assert_array_equal(lengths.decode(largest=mask.shape), mask)


@settings(max_examples=25, deadline=None)
@given(layouts())
def test_a_layout_survives_json_bit_for_bit(layout):
    text = dump_document(document(History(layout)))
    found = parse_document(text.encode(), source="x").history(BACKGROUND)
    assert same(found.first, layout)
    np.testing.assert_array_equal(found.layout.instance_map(), layout.instance_map())
    again = LayoutDocument.of(found, seed=5, background=FILE, picture=None)
    assert dump_document(again) == text


small = st.integers(-3, 3)
ids = st.integers(1, 3)
edits = st.one_of(
    st.builds(lambda mask, x: {"op": "add", "defect": "pit", "mask": mask, "left": x, "top": 2, "clip": "image"},
              masks.map(lambda m: RunLengths.of(tight(m)).model_dump()), st.integers(-5, 60)),
    st.builds(lambda id: {"op": "remove", "id": id}, ids),
    st.builds(lambda id, dx, dy, op: {"op": op, "id": id, "dx": dx, "dy": dy}, ids, small, small,
              st.sampled_from(["move", "copy"])),
    st.builds(lambda id, d, s: {"op": "turn", "id": id, "degrees": d, "scale": s}, ids, st.floats(-180, 180),
              st.floats(0.5, 2)),
    st.builds(lambda id, p: {"op": "grow", "id": id, "pixels": p}, ids, small),
    st.builds(lambda id, p, seed: {"op": "bend", "id": id, "pixels": p, "seed": seed}, ids, st.integers(0, 3),
              st.integers(0, 99)),
    st.builds(lambda id, x, y, e: {"op": "paint", "id": id, "points": [[x, y], [20, 20]], "width": 3, "erase": e},
              ids, st.integers(0, 49), st.integers(0, 29), st.booleans()),
    st.builds(lambda id: {"op": "set_class", "id": id, "defect": "dent"}, ids),
    st.builds(lambda id, seed: {"op": "set_style", "id": id, "style": {"seed": seed}}, ids, st.integers(0, 99)),
    st.builds(lambda id, s: {"op": "set_severity", "id": id, "severity": s}, ids, st.floats(0.25, 4)),
    st.builds(lambda seed: {"op": "restyle", "seed": seed}, st.integers(0, 99)),
    st.builds(lambda id: {"op": "swap_styles", "first": id, "second": 1}, ids),
    st.builds(lambda id, locked: {"op": "lock", "id": id, "locked": locked}, ids, st.booleans()),
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(st.lists(edits, max_size=8), st.data())
def test_any_edits_replay_undo_and_redo_exactly_also_through_a_file(chosen, data):
    history, states = History(block_layout()), [block_layout()]
    for values in chosen:
        try:
            history = history.then(parse_edit(values))
        except ValueError:  # it does not fit this layout
            continue
        states.append(history.layout)
    stored = parse_document(dump_document(document(history)).encode(), source="x").history(BACKGROUND)
    assert all(same(a, b) for a, b in zip(stored.states, states, strict=True))
    steps = data.draw(st.integers(0, len(history.edits)))
    undone = history.undo(steps)
    assert same(undone.layout, states[len(states) - 1 - steps])
    stored = parse_document(dump_document(document(undone)).encode(), source="x").history(BACKGROUND)
    assert same(stored.redo(steps).layout, history.layout)
    assert (stored.redo(steps).edits, stored.redo(steps).undone) == (history.edits, ())
    with pytest.raises(ValueError, match=f"cannot undo {len(history.edits) + 1} edits; there are"):
        undone.undo(len(history.edits) + 1)


def test_undoing_in_two_goes_redoes_in_order_and_a_new_edit_forgets_the_future():
    history = History(block_layout())
    for dx in (1, 2, 3):
        history = history.then(parse_edit({**MOVE, "dx": dx}))
    undone = history.undo().undo()
    assert [edit.dx for edit in undone.undone] == [2, 3]
    assert undone.redo().edits == history.edits[:2]
    assert undone.then(parse_edit(MOVE)).undone == ()
    with pytest.raises(ValueError, match="cannot redo 3 edits; 2 are undone"):
        undone.redo(3)


def test_a_thousand_edits_stay_quick_to_make():
    history = History(block_layout())
    for number in range(1000):
        history = history.then(parse_edit({**MOVE, "dx": 1 - 2 * (number % 2), "dy": 0}))
    assert same(history.layout, block_layout())
    assert len(history.edits) == 1000


def test_a_file_names_the_edit_that_does_not_fit():
    values = json.loads(dump_document(document()))
    values["edits"] = [MOVE, {"op": "remove", "id": 7}]
    with pytest.raises(ValueError, match=r"edit 2 \(remove\): layout on good/0.png has no instance 7; its ids: 1, 2"):
        parse_document(json.dumps(values).encode(), source="x").history(BACKGROUND)


def first(**change):
    return lambda values: {**values, "instances": [{**values["instances"][0], **change}]}


def top(**change):
    return lambda values: {**values, **change}


HUGE = 10**400
BROKEN = {
    "unknown key": (top(bakground={}), "unknown key 'bakground'; did you mean 'background'"),
    "unknown key of an instance": (first(lfet=1), "unknown key 'instances.0.lfet'; did you mean 'left'"),
    "unknown key of an edit": (top(edits=[{**MOVE, "dxx": 1}]), "unknown key 'edits.0.dxx'; did you mean 'dx'"),
    "unknown edit": (top(edits=[{"op": "mvoe", "id": 1}]), "mvoe"),
    "other format": (top(format="labelme"), "format: got 'labelme'"),
    "other version": (top(version=2), "version: got 2"),
    "path traversal": (top(background={"file": "../../etc/passwd", "sha256": "0" * 64}), "background.file"),
    "parent folder": (top(background={"file": "..", "sha256": "0" * 64}), "wanted the name of a file"),
    "absolute source": (top(source="/etc/passwd"), "wanted a relative one"),
    "source above the root": (top(source="a/../../b"), "wanted a relative one"),
    "class as a path": (first(defect="../x"), "instances.0.defect"),
    "category as a path": (top(category="a/b"), "category"),
    "text for a number": (first(left="3"), "instances.0.left: got '3'"),
    "truth for a number": (first(id=True), "instances.0.id: got 'true'"),
    "fraction for a pixel": (first(top=1.5), "instances.0.top: got 1.5"),
    "endless number": (first(left=HUGE), "instances.0.left"),
    "endless factor": (top(edits=[{"op": "turn", "id": 1, "degrees": HUGE}]), "edits.0.degrees"),
    "not a number": (top(edits=[{"op": "turn", "id": 1, "degrees": float("nan")}]), "edits.0.degrees"),
    "id past 16 bits": (first(id=65536), "less than or equal to 65535"),
    "seed past 63 bits": (top(seed=2**63), "seed: got"),
    "outside": (first(left=49), "the image is 50×30; move it inside"),
    "mask past the image": (first(mask={"size": [31, 50], "counts": [0, 31 * 50]}), "make it fit"),
    "huge mask": (first(mask={"size": [100_000, 100_000], "counts": [0, 10**10]}), "pixels in all; at most"),
    "mask past every size": (first(mask={"size": [10**9, 1], "counts": [0, 10**9]}), "less than or equal to 100000"),
    "too many runs": (first(mask={"size": [2, 2], "counts": [1, 10**30]}), "run lengths hold"),
    "too few runs": (first(mask={"size": [2, 2], "counts": [0, 3]}), "run lengths hold 3 pixels, the mask 2×2"),
    "negative run": (first(mask={"size": [2, 2], "counts": [-1, 5]}), "counts.0: got -1"),
    "empty runs": (first(mask={"size": [2, 2], "counts": [0] * 9 + [4]}), "only the first one may be empty"),
    "empty mask": (first(mask={"size": [2, 2], "counts": [4]}), "instances.0: the mask is empty"),
    "loose mask": (first(mask={"size": [2, 2], "counts": [0, 2, 2]}), "empty rows or columns"),
    "two kinds of style": (first(style={"seed": 1, "centre": 2}), "wanted one of seed, centre"),
    "half a reference": (first(style={"image": "a.png"}), "wanted one of seed, centre"),
    "reference out of the data": (first(style={"image": "../a.png", "instance": 1}), "wanted a relative one"),
    "ids twice": (lambda v: {**v, "instances": [v["instances"][0]] * 2}, "repeat"),
    "another size": (top(size=[3, 4]), "the pictures do not belong"),
    "no instances": (lambda v: {k: x for k, x in v.items() if k != "instances"}, "key 'instances' is missing"),
    "a list of everything": (lambda v: [v], "holds a list"),
    "half a character": (top(category="\ud800"), "category"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_document_is_one_short_line_that_names_the_place(case):
    change, message = BROKEN[case]
    data = json.dumps(change(json.loads(dump_document(document())))).encode()
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        parse_document(data, source="x.json").history(BACKGROUND)
    assert len(str(error.value)) < 500
    assert type(error.value) is ValueError


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[" * 100_000, b'{"seed": ' + b"9" * 5000 + b"}", b"\xff\xfe", b"nul", b'"' + b"x" * 10_000 + b'"'],
    ids=["empty", "cut off", "nested", "digits", "bytes", "no value", "text"],
)
def test_what_is_no_document_is_one_short_line(data):
    with pytest.raises(ValueError, match=r"^x\.json") as error:
        parse_document(data, source="x.json")
    assert len(str(error.value)) < 500


def test_a_document_of_nothing_but_mistakes_names_the_first_and_is_quick():
    values = json.loads(dump_document(document()))
    values["instances"] = ["x" * 1000] * 10_000
    values |= {f"key{number}": 1 for number in range(100)}
    with pytest.raises(ValueError, match="more problems") as error:
        parse_document(json.dumps(values).encode(), source="x.json")
    assert len(str(error.value)) < 2500


def test_few_bytes_cannot_ask_for_all_the_memory():
    values = json.loads(dump_document(document()))
    values["size"] = [16_000, 16_000]
    item = {**values["instances"][0], "mask": {"size": [16_000, 16_000], "counts": [0, 16_000**2]}, "left": 0, "top": 0}
    values["instances"] = [{**item, "id": number} for number in range(1, 40)]
    background = np.broadcast_to(np.zeros((1, 1, 1), np.uint8), (16_000, 16_000, 1))
    with pytest.raises(ValueError, match="at most 1,024,000,000 are read"):
        parse_document(json.dumps(values).encode(), source="x").history(background)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=25, deadline=None)
@given(anything, st.data())
def test_whatever_stands_at_any_place_is_read_or_refused_with_a_value_error(value, data):
    history = History(block_layout())
    for values in (MOVE, {"op": "add", "defect": "pit", "mask": BLOB, "left": 1, "top": 1, "style": {"seed": 1}}):
        history = history.then(parse_edit(values))
    whole = json.loads(dump_document(document(history)))
    node, key = whole, data.draw(st.sampled_from(sorted(whole)))
    while isinstance(node[key], dict | list) and node[key] and data.draw(st.booleans()):
        node = node[key]
        key = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else list(range(len(node)))))
    node[key] = value
    try:
        found = parse_document(json.dumps(whole).encode(), source="x").history(BACKGROUND)
    except ValueError as error:
        refused = error
    else:
        refused = ValueError()
        assert found.layout.size == (30, 50)
    assert type(refused) is ValueError  # not one of its subclasses, whose texts are for programmers


def test_names_that_cannot_be_folders_are_refused_when_a_document_is_made():
    with pytest.raises(ValueError, match=r"category: got 'a/b'") as error:
        document(History(replace(block_layout(), category="a/b")))
    assert type(error.value) is ValueError
