"""What tests share: an init of their own, the leak check, unruly programs, the fake containment, supervisors."""
