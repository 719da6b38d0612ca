"""The libraries of the extra `medical`, imported when they are needed."""

import importlib
from typing import Any


def library(name: str) -> Any:
    """The module. Raises ImportError that says what to install when it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError:
        package = name.partition(".")[0]
        raise ImportError(f"{package} is not installed; pip install fastsynth[medical]") from None
