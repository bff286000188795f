"""Wires: each callback parses, asks the service and presents."""
