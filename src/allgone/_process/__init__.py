"""What callers hold: processes, groups, fixtures; and the blocking driver of the stop sequence."""
