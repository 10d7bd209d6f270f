"""What a run is, as data: the model, its training, the task, and when to report.

Every default of the product stands here (or in a cell's `Spec`) and nowhere else.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import pydantic
from pydantic import Field, JsonValue

from fwt.fwcore.cells import parse_core
from fwt.fwcore.cells.base import MOST, CellSpec, PositiveInt
from fwt.fwcore.frozen import Frozen, Items, digest_of
from fwt.fwcore.layers import EncoderSpec, HeadSpec

FORMAT_VERSION = 1  # of spec.json and of checkpoints; a newer one is refused by name

Fraction = Annotated[float, Field(ge=0, lt=1)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Epochs = Annotated[float, Field(gt=0, le=1e6)]
Count = Annotated[int, Field(ge=0, le=MOST)]

NO_FLOAT16 = (
    "float16 is not offered: it ends at 65504, and gradients below 6e-8 are 0 in it, so that it "
    "trains with loss scaling alone, which fwt has not; take bfloat16, or float32"
)


class ModelSpec(Frozen):
    """A network: encoder, recurrent core, head. It names no framework.

    Attributes:
        encoder: from the task's input to the core's, see `fwt.fwcore.layers`.
        core: the recurrent core, see `fwt.fwcore.cells`.
        head: from the last hidden state to class scores, see `fwt.fwcore.layers`.
    """

    encoder: EncoderSpec
    core: Annotated[pydantic.SerializeAsAny[CellSpec], pydantic.BeforeValidator(parse_core)]
    head: HeadSpec


def check_one_length(spec: Stage | TrainSpec) -> Stage | TrainSpec:
    """Raises ValueError unless exactly one of epochs and steps is given."""
    if (spec.epochs is None) == (spec.steps is None):
        raise ValueError(
            f"give exactly one of epochs and steps, got epochs={spec.epochs}, steps={spec.steps}"
        )
    return spec


def updates(length: Stage | TrainSpec, examples: int, batch_size: int) -> int:
    """Updates of a length over a training split of that many examples; at least one."""
    if length.steps is not None:
        return length.steps
    return max(1, round(float(length.epochs or 0) * (examples // batch_size)))


class Stage(Frozen):
    """An earlier length of a run that was given another one, see `TrainSpec.earlier`.

    Attributes:
        until: updates made when the length changed, at least one.
        epochs, steps: that length, as in `TrainSpec`.
    """

    until: PositiveInt
    epochs: Epochs | None = None
    steps: PositiveInt | None = None

    _one_length = pydantic.model_validator(mode="after")(check_one_length)


class TrainSpec(Frozen):
    """How a model is trained. Adam with decoupled weight decay, all of its constants pinned.

    Attributes:
        optimizer: `adam`: Kingma & Ba 2015 with bias correction, epsilon outside the root.
        lr: learning rate, at its highest.
        schedule: `constant`, or `cosine` from lr to 0 over the whole run; of a run whose length
            was changed, each update has the rate of a run of the length that held when it was made.
        beta1, beta2, epsilon: Adam's constants.
        weight_decay: decoupled (Loshchilov & Hutter 2019): before each update a matrix shrinks
            by the factor 1 - lr * weight_decay; biases, gains and scalars do not.
        batch_size: examples an update. The examples left over at an epoch's end are dropped
            (others each epoch), so that every batch has one shape.
        epochs: passes over the training split, at most a million; None if `steps` is given.
        steps: updates; None if `epochs` is given.
        earlier: lengths that the run had before it was given this one, oldest first.
        clip: gradients whose global norm is larger are scaled down to it; 0 never clips.
        dropout: fraction of the encoder's outputs set to zero, one mask a sequence
            (variational dropout, Gal & Ghahramani 2016).
        head_dropout: the same for the hidden state that enters the head.
        seed: seed of weights, batch order and dropout masks; 0 is a seed like every other.
        dtype: number type of the computation; float16 is refused, see `NO_FLOAT16`. Parameters
            and moments are kept in float32 (float64 with `float64`).
        precision: `highest` multiplies float32 matrices in float32; `tf32` allows TF32.
    """

    omit_default: ClassVar[frozenset[str]] = frozenset({"earlier"})

    optimizer: Literal["adam"] = "adam"
    lr: Positive = 1e-3
    schedule: Literal["constant", "cosine"] = "constant"
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    epsilon: Positive = 1e-8
    weight_decay: NonNegative = 0.0
    batch_size: PositiveInt = 128
    epochs: Epochs | None = None
    steps: PositiveInt | None = None
    earlier: Items[Stage] = ()
    clip: NonNegative = 0.0
    dropout: Fraction = 0.0
    head_dropout: Fraction = 0.0
    seed: int = 0
    dtype: Literal["float32", "float64", "bfloat16"] = "float32"
    precision: Literal["highest", "tf32"] = "highest"

    @pydantic.field_validator("dtype", mode="before")
    @classmethod
    def _scaled(cls, dtype: object) -> object:
        if dtype == "float16":
            raise ValueError(NO_FLOAT16)
        return dtype

    _one_length = pydantic.model_validator(mode="after")(check_one_length)

    def total_steps(self, examples: int, step: int | None = None) -> int:
        """Updates of the whole run over a training split of that many examples.

        With `step`, those of the length that held when this update (counted from 0) was made.
        """
        held = (stage for stage in self.earlier if step is not None and step < stage.until)
        return updates(next(held, self), examples, self.batch_size)

    def ends(self, examples: int) -> frozenset[int]:
        """The updates at which the run reached an end: that of this length and of earlier ones."""
        totals = [(stage, updates(stage, examples, self.batch_size)) for stage in self.earlier]
        reached = {total for stage, total in totals if total <= stage.until}
        return frozenset(reached | {self.total_steps(examples)})


class ReportSpec(Frozen):
    """When a run reports and saves; it does not change what is learned.

    Attributes:
        log_every: updates between two lines of training metrics.
        eval_every: updates between two evaluations on the validation split; 0: once an epoch.
        save_every: updates between two checkpoints; 0: at every evaluation.
        keep: how many of the latest checkpoints are kept, beside the best one.
    """

    log_every: PositiveInt = 100
    eval_every: Count = 0
    save_every: Count = 0
    keep: PositiveInt = 2


class InitSpec(Frozen):
    """The checkpoint whose weights a run begins with; its moments and step do not matter.

    Attributes:
        path: the checkpoint folder or file; where it lies is no part of what the run is.
        layout: `torch`, `mlx` or `fwt`, of a file that does not say it; None reads what it says.
        sha256: of the file of weights, hexadecimal.
    """

    path: Annotated[str, Field(min_length=1)]
    layout: Literal["fwt", "torch", "mlx"] | None = None
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class RunSpec(Frozen):
    """All of a run: two equal specs on one backend and device give equal runs.

    Attributes:
        format_version: of this file's layout.
        recipe: the recipe the spec began from, "" for none; a name only.
        task: the task's options, `kind` first among them; the task's module checks them.
        model, train, report: see their classes.
        init: the checkpoint it begins with; None draws the weights from the seed.
    """

    omit_default: ClassVar[frozenset[str]] = frozenset({"init"})

    format_version: Literal[1] = 1
    recipe: str = ""
    task: dict[str, JsonValue]
    model: ModelSpec
    train: TrainSpec
    report: ReportSpec = ReportSpec()
    init: InitSpec | None = None

    def run_digest(self) -> str:
        """8 hex digits that name what is learned: task, model, training without the seed, weights.

        The weights are those of `init`, by their own digest.
        """
        train = self.train.json_data()
        del train["seed"]
        data = self.json_data()
        contents = {"task": data["task"], "model": data["model"], "train": train}
        if self.init is not None:
            contents["init"] = self.init.sha256
        return digest_of(contents)
