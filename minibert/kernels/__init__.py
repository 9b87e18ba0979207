"""Fast twins of book functions: same names, same arguments, same results, proven equal by tests."""
