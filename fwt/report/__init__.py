"""Runs and sweeps as one HTML page that needs nothing else; imported by `fwt report` alone."""
