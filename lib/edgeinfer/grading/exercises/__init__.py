"""One file per lab: contracts, inputs, independent oracles, named misconceptions. Never mounted in the sandbox."""
