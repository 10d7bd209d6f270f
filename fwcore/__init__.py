"""The framework-free core of fwt: specs, equations, checkpoints, the training loop.

Letters in every docstring: B batch (sequences), T time (steps), I input size (numbers a step),
R hidden size (units), S inner steps, K key-value pairs, N examples.

Nothing here imports torch or mlx, so that a machine with only one of them, or neither, can read
specs and checkpoints, and so that importing a name costs no framework's start-up time. Import
what you need from its module: `from fwt.fwcore.spec import ModelSpec`.
"""

if __name__ == "fwcore":
    raise ImportError("fwcore: its import name is fwt.fwcore", name="fwcore")
