"""Plain numbers in; means, intervals, tests and curves out."""
