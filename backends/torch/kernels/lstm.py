"""PyTorch's own LSTM as the time loop of our LSTM on CPUs.

Its equations are those of `fwt.fwcore.cells.lstm`, written there; a training step costs about half.
The framework's GRU and plain network cost as much as the equations do, so they have no override.
On CUDA the training step is one graph, and nothing was measured.
"""

from __future__ import annotations

from torch import Tensor, lstm

from fwt.backends.torch.kernels.fused import Outputs
from fwt.backends.torch.kernels.library import NAMES
from fwt.backends.torch.ops import TorchOps
from fwt.fwcore.cells.base import CellSpec, Weights
from fwt.fwcore.cells.lstm import LSTMState, Spec
from fwt.fwcore.lookup import dense
from fwt.fwcore.memory import Plan
from fwt.fwcore.ops import Ops
from fwt.fwcore.spec import ModelSpec

KERNEL = "torch.lstm"
MAPS = False  # vmap has no rule for it


def covers(core: CellSpec, ops: TorchOps) -> bool:
    """Whether `unroll` computes a core: an LSTM without norms, on the CPU, in float32 or 64."""
    if not isinstance(core, Spec) or core.norm != "none":
        return False
    return ops.device.type == "cpu" and ops.dtype in NAMES


def unroll(
    ops: Ops,
    spec: ModelSpec,
    p: Weights,
    x: Tensor,
    memory: Plan,
    given: Weights | None = None,
    first: int = 0,
) -> tuple[Outputs, LSTMState]:
    """As `fwt.fwcore.model.unroll`; i, f, g, o as in PyTorch, whose second bias is zero here."""
    x, start, bias = dense(x), given or {}, p["core.bias"]
    zeros = x.new_zeros(x.shape[0], spec.core.size)
    state = [start.get(name, zeros)[None] for name in ("h", "c")]
    weights = [p["core.wx"], p["core.wh"], bias, bias.new_zeros(bias.shape)]
    out, h, c = lstm(
        x,
        state,
        weights,
        has_biases=True,
        num_layers=1,
        dropout=0.0,
        train=True,
        bidirectional=False,
        batch_first=True,
    )
    return Outputs(out), LSTMState(h[0], c[0])
