"""The commands, each a function of its options and a package's backend."""
