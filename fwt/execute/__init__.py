"""Runs carried out: one, several as one program, batches of them here or on a cluster."""
