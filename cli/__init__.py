"""The command line: one file a verb. Nothing heavy is imported before a verb runs."""

if __name__ == "cli":
    raise ImportError("cli: its import name is fwt.cli", name="cli")
