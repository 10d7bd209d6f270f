"""Files: checkpoints, run folders, layouts of others, and what guards them."""
