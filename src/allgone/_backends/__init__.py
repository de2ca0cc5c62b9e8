"""The two implementations of the one interface (`allgone._core.containment`), and the choice between them."""
