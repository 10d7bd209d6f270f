"""Processes that train are killed, stopped and starved of disk; every run must end the same."""
