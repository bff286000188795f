"""Prompts that the real model answers as people would."""

JAPAN = "The capital of Japan is the city of"
MARY = "When Mary and John went to the store, John gave a drink to"
