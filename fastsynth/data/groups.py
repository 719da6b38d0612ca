"""Which images belong together by the user's word: one group id per image, and one source of ids per data set.

groups.json      file stem → group, at the root or in a category's folder; need not name every image
metadata.csv     with the columns file_name (path below the table's folder) and patient_id; names every image there
split.group_regex   searched in the path below the data root; its first group is the id; must fit every image
"""

import csv
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from fastsynth.files import read_json

GROUPS_FILE = "groups.json"
METADATA_FILE = "metadata.csv"
NAME, PATIENT = "file_name", "patient_id"


def read_groups(path: Path) -> dict[str, str]:
    """Stem → group; empty when there is no such file. Raises ValueError when it holds something else."""
    if not path.is_file():
        return {}
    groups = read_json(path)
    if not isinstance(groups, dict) or not all(isinstance(group, str | int) for group in groups.values()):
        raise ValueError(f'{path}: wanted one group name per file stem, like {{"part_017": "patient 4"}}')
    return {unicodedata.normalize("NFC", name): str(group) for name, group in groups.items()}


def read_patients(folder: Path) -> dict[str, str]:
    """Path below `folder` → patient, from metadata.csv; empty without such a table or without its column patient_id.

    Raises ValueError for a table that is not UTF-8 CSV, has no file names, or gives one file two patients.
    """
    path = folder / METADATA_FILE
    if not path.is_file():
        return {}
    found: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            columns = rows.fieldnames or []
            if PATIENT not in columns:
                if any(PATIENT in column for column in columns):
                    raise ValueError(f"{path} has the columns {', '.join(map(repr, columns))}; separate them by commas")
                return {}
            if NAME not in columns:
                raise ValueError(
                    f"{path} has {PATIENT} but no column {NAME}; add the path of every image below {folder}"
                )
            for row in rows:
                name, patient = _composed(row[NAME] or ""), (row[PATIENT] or "").strip()
                if patient and found.setdefault(name, patient) != patient:
                    raise ValueError(f"{path}: {name} has the patients {found[name]} and {patient}; keep one line")
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a table of comma-separated UTF-8 text ({error}); save it as such") from error
    return found


def patients_of(folder: Path, images: Iterable[str], *, prefix: str) -> dict[str, str]:
    """Image → patient for the images of `folder`, which carry `prefix` before their path below it; {} without a table.

    Raises ValueError that names the first image of which the table says nothing.
    """
    table = read_patients(folder)
    if not table:
        return {}
    found = {}
    for image in images:
        name = _composed(image.removeprefix(prefix))
        if name not in table:
            raise ValueError(
                f"{folder / METADATA_FILE} gives no {PATIENT} for {name}; every image needs one, or the column must go"
            )
        found[image] = table[name]
    return found


def by_regex(expression: str, images: Iterable[str]) -> dict[str, str]:
    """Image → the first group of `expression`, searched in its path. Raises ValueError that names what does not fit."""
    pattern = re.compile(expression)
    found = {}
    for image in images:
        match = pattern.search(image)
        if match is None or match[1] is None:
            raise ValueError(
                f"split.group_regex {expression!r} finds no group in {image}; every image needs one: widen it"
            )
        found[image] = match[1]
    return found


def check_regex(expression: str) -> str:
    """The expression. Raises ValueError when it is none, or has no group."""
    try:
        groups = re.compile(expression).groups
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"not a regular expression ({error})") from None
    if groups == 0:
        raise ValueError(r"no group in it; put brackets around what names the group, like (patient\d+)_")
    return expression


def _composed(name: str) -> str:
    """macOS writes é as two characters, others as one."""
    return unicodedata.normalize("NFC", name.replace("\\", "/").removeprefix("./").strip())
