"""fwt: fast weights on MLX and PyTorch. No framework is imported before one is asked for."""

from pathlib import Path

# The folders fwcore, backends, tasks and cli lie beside this one in a checkout. `fwt/` has links to
# them; a clone made without links finds them here.
if not Path(__file__).with_name("fwcore").is_dir():
    __path__.append(str(Path(__file__).parents[1]))
