"""What is to be seen of a result: tables, and the doors through which results are drawn, written and read."""
