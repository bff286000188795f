"""Studies: measurements that take longer than a test run, whose tables stand in the documentation."""
