import errno
import os

import pytest

from fastsynth.files import atomic_write, read_json, sha256_file, sha256_folder, sha256_json, write_json


def test_a_write_makes_its_folders_and_leaves_nothing_else_behind(tmp_path):
    path = tmp_path / "a" / "b" / "file.bin"
    atomic_write(path, b"new")
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.bin"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_failed_write_keeps_the_old_file_leaves_no_partial_one_and_names_the_file(tmp_path):
    resource = pytest.importorskip("resource")
    path = tmp_path / "file.bin"
    atomic_write(path, b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match=r"file\.bin") as caught:
            atomic_write(path, bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno == errno.EFBIG
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file.bin"]


def test_a_write_that_cannot_replace_its_target_leaves_no_temporary_file(tmp_path):
    (tmp_path / "target").mkdir()
    with pytest.raises(OSError, match="target"):
        atomic_write(tmp_path / "target", b"data")
    assert os.listdir(tmp_path) == ["target"]


def test_json_comes_back_and_its_bytes_do_not_depend_on_the_order_of_keys(tmp_path):
    value = {"b": [1, 2.5, None], "a": {"ü": True}}
    write_json(tmp_path / "1.json", value)
    write_json(tmp_path / "2.json", dict(reversed(value.items())))
    assert read_json(tmp_path / "1.json") == value
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "2.json").read_bytes()


@pytest.mark.parametrize("data", [b'{"a": ', b"\xff\xfe\x00"], ids=["cut off", "not text"])
def test_a_damaged_json_file_is_named(tmp_path, data):
    (tmp_path / "damaged.json").write_bytes(data)
    with pytest.raises(ValueError, match=r"damaged\.json is not readable JSON"):
        read_json(tmp_path / "damaged.json")


def test_the_hash_of_a_value_ignores_the_order_of_keys_and_nothing_else():
    assert sha256_json({"a": 1, "b": 2}) == sha256_json({"b": 2, "a": 1})
    assert sha256_json({"a": 1}) != sha256_json({"a": 2})
    assert sha256_json([1, 2]) != sha256_json([2, 1])


def test_the_hash_of_a_file_is_that_of_everybody_else(tmp_path):
    (tmp_path / "empty").touch()
    assert sha256_file(tmp_path / "empty") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_the_hash_of_a_folder_sees_names_contents_and_places_but_not_clocks(tmp_path):
    def folder(name: str, **files: bytes):
        for file, data in files.items():
            atomic_write(tmp_path / name / file.replace("__", "/"), data)
        return tmp_path / name

    original = folder("original", a=b"1", sub__b=b"2")
    same = folder("same", sub__b=b"2", a=b"1")
    os.utime(same / "a", (0, 0))
    assert sha256_folder(same) == sha256_folder(original)
    others = [
        folder("renamed", c=b"1", sub__b=b"2"),
        folder("changed", a=b"3", sub__b=b"2"),
        folder("moved", a=b"1", b=b"2"),
        folder("swapped", a=b"2", sub__b=b"1"),
        folder("fewer", a=b"1"),
    ]
    assert len({sha256_folder(other) for other in (original, *others)}) == 6


def test_the_hash_of_a_folder_can_be_limited_to_some_files(tmp_path):
    atomic_write(tmp_path / "model" / "weights.safetensors", b"1")
    before = sha256_folder(tmp_path, "*.safetensors")
    atomic_write(tmp_path / "model" / "notes.json", b"{}")
    assert sha256_folder(tmp_path, "*.safetensors") == before
    atomic_write(tmp_path / "model" / "weights.safetensors", b"2")
    assert sha256_folder(tmp_path, "*.safetensors") != before
