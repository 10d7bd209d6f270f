"""The published tables again: which runs they need, what came of each, and the page about it."""
