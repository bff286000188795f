"""Captions, sentences, terminal output and visible text."""
