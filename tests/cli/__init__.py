"""The command `allgone`, run as users run it: as a program of its own, under terminals and without."""
