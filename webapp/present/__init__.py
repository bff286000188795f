"""What panels are drawn with: elements, tables, numbers in words, colours, errors."""
