"""Numbers as the panels write them: few digits, a true minus, and never 0 for something that is there."""

from __future__ import annotations

MINUS = "−"
_PARTS = ("share", "attention", "probability")


def signed(value: float, digits: int = 2) -> str:
    """``+2.31``, ``−0.04``: logits and other signed numbers; ``0`` only where it is nothing."""
    if value == 0:
        return "0"
    if abs(value) < 0.5 * 10**-digits:
        return _minus(f"{value:+.0e}".replace("e-0", "e-"))
    return _minus(f"{value:+.{digits}f}")


def short(value: float) -> str:
    """Three significant digits."""
    size = abs(value)
    if size == 0:
        return "0"
    if size < 0.001:
        return _minus(f"{value:.1e}".replace("e-0", "e-"))
    if size >= 1000:
        return _minus(f"{value:,.0f}")
    return _minus(f"{value:.1f}" if size >= 100 else f"{value:.2f}" if size >= 10 else f"{value:.3f}")


def probability(value: float) -> str:
    """``.853``; smaller ones as ``7.1e−10``; 1 only where it is."""
    if value >= 1:
        return f"{value:.3f}".rstrip("0").rstrip(".")
    if value >= 0.9995:
        return "> .999"
    return f"{value:.3f}".removeprefix("0") if value >= 0.001 else short(value)


def count(value: int) -> str:
    """``1,166``."""
    return f"{value:,}"


def plural(value: int, noun: str) -> str:
    """``1 head``, ``30 heads``."""
    return f"{value:,} {noun}{'' if value == 1 else 's'}"


def weight(value: float, unit: str) -> str:
    """A number in its unit: logits show their sign, shares and probabilities no leading 0."""
    if unit == "logits":
        return signed(value)
    return probability(value) if unit in _PARTS and 0 <= value <= 1 else short(value)


def percent(value: float, whole: float) -> str:
    """A part of a whole in per cent, never clipped."""
    return _minus(f"{100 * value / whole:.1f} %")


def _minus(text: str) -> str:
    return text.replace("-", MINUS)
