"""Training: batches, schedules, the loop, populations and several processes."""
