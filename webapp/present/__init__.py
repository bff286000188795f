"""Answers of the service as what the page shows: pure functions, tested as data."""
