"""Circuits: the few edges of a model that make it do a task, found, tested and compared."""
