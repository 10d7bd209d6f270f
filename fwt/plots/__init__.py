"""Pictures of what networks do, with Matplotlib; imported by the verbs that draw alone."""
