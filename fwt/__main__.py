"""`python -m fwt` is `fwt`, for launchers that start a module: `torchrun -m fwt train ...`."""

from fwt.cli.main import main

if __name__ == "__main__":
    main()
