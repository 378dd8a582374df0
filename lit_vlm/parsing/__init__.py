"""Pure text functions: tagged answers, verdicts, statements."""
