"""One file per lab: contracts, hidden inputs, independent oracles, named misconceptions. Never mounted in the sandbox."""
