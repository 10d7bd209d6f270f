"""Damaged and hostile files, made from seeds, for everything of `fwt` that reads a file."""
