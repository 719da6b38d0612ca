"""What is neither wrong usage nor a failure, and how messages show what they got.

No heavy imports: the command line needs it before anything is loaded.
"""

import re
import reprlib

SHOWN = 120
"""Characters of a value or a name that a message shows."""
_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = SHOWN


class CheckFailedError(ValueError):
    """Everything ran, and a check says no: the data have problems, or a store breaks its contract."""


def one_line_warning(message: Warning | str, *_: object, **__: object) -> str:
    """For `warnings.formatwarning`: without the place in the program, which tells the user nothing."""
    return f"fastsynth: {message}\n"


def shown(value: object) -> str:
    """`repr(value)` for a message: on one line; what is long, deep or of many parts is cut."""
    return shortened(_BRIEF.repr(value), SHOWN)


def shortened(text: str, limit: int) -> str:
    """At most `limit` characters of `text`: its beginning and its end."""
    if len(text) <= limit:
        return text
    end = limit // 3
    return f"{text[: limit - end - 1]}…{text[-end:]}"


def shorten_words(text: str, limit: int = 3 * SHOWN) -> str:
    """`text` with every run of more than `limit` characters other than white space shortened: overlong paths."""
    return re.sub(rf"\S{{{limit + 1},}}", lambda found: shortened(found.group(), limit), text)
