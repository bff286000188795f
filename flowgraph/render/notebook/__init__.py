"""Frames and widgets for notebooks."""
