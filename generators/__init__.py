"""Renderers beside FAST: all take the same layouts and give the same samples."""
