"""fastsynth: new defect images with pixel-exact masks from normal images and a few annotated defects."""

__version__ = "0.1.0"
