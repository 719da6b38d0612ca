"""Segmenters: training on real and synthetic samples, tiled prediction, metrics, and the verdict."""
