"""Values, protocols and decisions. Nothing here makes a system call or waits."""
