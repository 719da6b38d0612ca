"""Several processes at one piece of work, as `accelerate launch` or torchrun start them.

They say who they are in the environment. A process that nobody launched is the only one, number 0 of 1. No torch.
"""

import os


def process_index() -> int:
    """Number of this process, from 0; the main one is 0."""
    return int(os.environ.get("RANK", "0"))


def process_count() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))
