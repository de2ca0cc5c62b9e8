"""What holds when the supervisor does not: its guard, and the janitor for when that is gone as well."""
