"""Which volumes belong to one patient, and names that tell nothing: p0001, p0002, … in the order of the sorted keys.

The keys (ids, tags, file names) stay in memory. Who must find a patient again sorts the keys and counts.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class PatientRule:
    """How the key of a volume's patient is found. value: DICOM keyword of a tag, or a regular expression."""

    kind: Literal["file", "tag", "regex"]
    value: str = ""

    @property
    def tag(self) -> str | None:
        return self.value if self.kind == "tag" else None

    def key(self, name: str, tag: str) -> str:
        """name: path of the file below the source. tag: value of the tag. Raises ValueError when there is no key."""
        match self.kind:
            case "file":
                return name
            case "tag":
                if not tag.strip():
                    raise ValueError(f"{name}: {self.value} is empty; choose another tag, or --patient regex:…")
                return tag.strip()
            case "regex":
                found = re.search(self.value, name)
                if found is None:
                    raise ValueError(f"{name}: --patient regex:{self.value} finds nothing in this path; widen it")
                return str(found[1] if found.re.groups else found[0])


def parse_rule(text: str) -> PatientRule:
    """`id` (the DICOM PatientID), `tag:<keyword>`, `regex:<expression>` or `file` (every volume on its own).

    The expression is searched in the path below the source folder; its first group is the key, or all that it finds.
    Raises ValueError for anything else.
    """
    kind, _, value = text.partition(":")
    match kind:
        case "id" if not value:
            return PatientRule("tag", "PatientID")
        case "file" if not value:
            return PatientRule("file")
        case "tag" if value:
            return PatientRule("tag", value)
        case "regex" if value:
            try:
                re.compile(value)
            except re.error as error:
                raise ValueError(f"--patient {text}: not a regular expression ({error})") from None
            return PatientRule("regex", value)
    raise ValueError(f"--patient is {text!r}; wanted id, tag:<DICOM keyword>, regex:<expression> or file")


def pseudonyms(keys: Sequence[str]) -> list[tuple[str, str]]:
    """Patient and volume name of every key, in their order: ("p0001", "p0001-v01"), ("p0001", "p0001-v02"), …"""
    numbers = {key: number for number, key in enumerate(sorted(set(keys)), start=1)}
    counts: dict[str, int] = {}
    names = []
    for key in keys:
        counts[key] = counts.get(key, 0) + 1
        patient = f"p{numbers[key]:04d}"
        names.append((patient, f"{patient}-v{counts[key]:02d}"))
    return names
