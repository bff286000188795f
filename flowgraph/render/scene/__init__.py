"""What stands where in a picture of a graph, in which colour, before any file format."""
