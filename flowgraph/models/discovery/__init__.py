"""Rows for models that no row is written for: found by the flow of data in one short pass, and proved like any other row."""

from .rows import can_search, found_and_proved, found_stages

__all__ = ["can_search", "found_and_proved", "found_stages"]
