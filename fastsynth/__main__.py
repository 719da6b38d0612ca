"""`python -m fastsynth`, and `accelerate launch -m fastsynth`."""

from fastsynth.cli import main

main()
