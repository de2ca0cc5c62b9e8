"""One module per kernel or system interface. No policy: nothing here decides what to kill."""
