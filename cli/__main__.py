"""`python -m cli` is `fwt`, for launchers that start a module: `torchrun -m cli train ...`."""

from cli.main import main

if __name__ == "__main__":
    main()
