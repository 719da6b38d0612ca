from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from fastsynth.config import Config, config_sha256, dump_config, load_config, parse_config
from fastsynth.diffusion.config import FASTConfig
from fastsynth.run_config import CompareConfig


class Red(Config):
    kind: Literal["red"] = "red"
    brightness: Annotated[float, Field(ge=0, le=1)] = 0.5


class Blue(Config):
    kind: Literal["blue"] = "blue"
    depth: int = 3


class Inner(Config):
    width: Annotated[int, Field(ge=1)] = 4
    """Of the thing."""


class Outer(Config):
    name: str
    inner: Inner = Inner()
    paint: Annotated[Red | Blue, Field(discriminator="kind")] = Red()
    maybe: Inner | None = None
    folder: Path = Path("runs")
    sizes: tuple[int, ...] = (1, 2)


@pytest.fixture
def write(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize(
    ("text", "wrong", "closest"),
    [
        ("name: a\nnmae: b", "'nmae'", "'name'"),
        ("name: a\ninner: {widht: 3}", "'inner.widht'", "'width'"),
        ("name: a\nmaybe: {wdth: 3}", "'maybe.wdth'", "'width'"),
        ("name: a\npaint: {kind: blue, dept: 3}", "dept'", "'depth'"),
    ],
)
def test_an_unknown_key_is_named_with_the_closest_known_one(write, text, wrong, closest):
    with pytest.raises(ValueError, match="did you mean") as caught:
        load_config(Outer, write(text))
    assert wrong in str(caught.value)
    assert closest in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_key_like_no_other_gets_the_list_of_known_ones(write):
    with pytest.raises(ValueError, match="known keys: width"):
        load_config(Outer, write("name: a\ninner: {zzz: 1}"))


def test_every_problem_gets_one_line_that_starts_with_the_file(write):
    path = write("inner: {width: 0}\nsizes: [1, two]\nfolder: 7")
    with pytest.raises(ValueError, match="width") as caught:
        load_config(Outer, path)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{path}: ") for line in lines)
    text = str(caught.value)
    for part in ("key 'name' is missing", "inner.width: got 0", "sizes.1: got 'two'", "folder: got 7"):
        assert part in text
    assert len(lines) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nname: b", "line 2: key 'name' is there twice"),
        ("a: [1", "not valid YAML"),
        ("- 1\n- 2", "holds a list; wanted `key: value` lines"),
        ("\xff: \x00", "YAML"),
    ],
)
def test_what_is_not_a_mapping_in_yaml_is_refused_in_one_line(write, text, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_config(Outer, write(text))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.yaml: no such config file"):
        load_config(Outer, tmp_path / "absent.yaml")


def test_overrides_win_over_the_file_and_the_last_over_the_first(write):
    path = write("name: a\ninner: {width: 2}")
    config = load_config(Outer, path, ["inner.width=5", "inner.width=6", "maybe.width=7", "sizes=[3]", "name=b=c"])
    assert (config.inner.width, config.maybe, config.sizes, config.name) == (6, Inner(width=7), (3,), "b=c")


@pytest.mark.parametrize(
    ("paint", "message"),
    [
        ("{kind: green}", "paint.kind: got 'green'; wanted one of red, blue"),
        ("{depth: 3}", "key 'paint.kind' is missing; add it"),
    ],
)
def test_a_kind_that_is_unknown_or_missing_is_told_with_those_there_are(write, paint, message):
    with pytest.raises(ValueError, match=message):
        load_config(Outer, write(f"name: a\npaint: {paint}"))


def test_an_override_alone_is_enough_for_an_empty_file(write):
    assert load_config(Outer, write(""), ["name=a"]).name == "a"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("inner.width", "has no value; write key.sub=value"),
        ("=3", "has no key; write key.sub=value"),
        ("name.sub=3", "name is a value, it has no keys below it"),
        ("sizes=[1", "not valid YAML"),
        ("inner.with=3", "did you mean 'width'"),
        ("inner=3", "inner: got 3; wanted keys below it"),
        ("sizes=3", "sizes: got 3; wanted a list, like"),
        ("inner.width=true", "inner.width: got 'true'; Input should be a valid integer"),
        ("sizes=[2, false]", "sizes.1: got 'false'; Input should be a valid integer"),
    ],
)
def test_a_bad_override_is_explained(write, override, message):
    with pytest.raises(ValueError, match=message):
        load_config(Outer, write("name: a"), [override])


def test_a_dumped_config_loads_back_equal_and_with_the_same_hash(write):
    config = load_config(Outer, write("name: ü\npaint: {kind: blue}\nmaybe: {width: 9}"), ["folder=a/b"])
    again = load_config(Outer, write(dump_config(config)))
    assert again == config
    assert config_sha256(again) == config_sha256(config)
    assert "sizes" in dump_config(config)


def test_the_hash_changes_with_every_value():
    config = Outer(name="a")
    others = [Outer(name="b"), Outer(name="a", sizes=(1,)), Outer(name="a", inner=Inner(width=5))]
    assert len({config_sha256(each) for each in (config, *others)}) == 4


def test_a_config_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        Outer(name="a").name = "b"


def test_plain_values_are_explained_like_files():
    with pytest.raises(ValueError, match=r"^renderer: key 'name' is missing; add it$"):
        parse_config(Outer, {}, source="renderer")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: &a [1]\nsizes: *a", r"line 2: alias \*a; write the value out"),
        ("name: !!python/name:os.system x", "tag tag:yaml.org,2002:python/name:os.system; write a plain value"),
        ("name: " + "[" * 5000, "nested more than 50 deep"),
        ("name: " + "9" * 6000, "is no whole number of at most 9,223,372,036,854,775,807"),
        ('name: a\nfolder: "a\\0b"', r"folder: got .*holds a NUL character"),
        ("name: a\npaint: {kind: red, brightness: .nan}", "brightness: got nan; Input should be a finite number"),
        ("name: " + "a" * 300_000, "bytes; of YAML at most 200,000 are read"),
    ],
)
def test_what_no_configuration_needs_is_refused_in_one_short_line(write, text, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_config(Outer, write(text))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


def test_what_looks_like_a_date_is_a_text(write):
    config = load_config(Outer, write("name: 2001-01-01\nfolder: 2001-99-99"))
    assert (config.name, config.folder) == ("2001-01-01", Path("2001-99-99"))


def test_farm_is_refused_where_it_was_not_trained_for():
    with pytest.raises(ValueError, match=r"farm is input, but with training.farm_share 0 .* set training.farm_share"):
        parse_config(FASTConfig, {"farm": "input"}, source="x.yaml")
    assert parse_config(FASTConfig, {"farm": "input", "training": {"farm_share": 0.5}}, source="x.yaml").farm == "input"


@pytest.mark.parametrize(
    ("compare", "message"),
    [
        ({"seeds": [0, 0]}, "seeds names one of them twice"),
        ({"ratios": [1, 1.0]}, "ratios names one of them twice"),
        ({"seeds": [-1]}, "greater than or equal to 0"),
        ({"ratios": [], "synthetic_only": False}, "no arm has synthetic images"),
    ],
)
def test_arms_that_could_never_be_compared_are_refused(compare, message):
    with pytest.raises(ValueError, match=message):
        CompareConfig(**compare)
