"""The commands, each a function of its options and of a package's parts."""
