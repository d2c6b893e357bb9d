"""The commands of the command line, a module each that ends in ``COMMANDS``; a new one is one new file."""
