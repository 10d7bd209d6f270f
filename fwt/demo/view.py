"""One time step of a network as HTML: its answer, its attention, its fast matrix A."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping
from functools import lru_cache
from html import escape

import numpy as np
from PIL import Image

from fwt.demo.digit import PREFIX
from fwt.demo.steps import REFERENCE, Story, Subject
from fwt.fwcore.analysis.trace import effective_rank
from fwt.fwcore.cells.fast_weights import Spec as FastWeights
from fwt.fwcore.ops import NumpyArray

INK, WARM = (0, 114, 178), (213, 94, 0)  # of positive and negative numbers (Okabe & Ito 2008)

FAST = """<p>Beside its trained weights <i>W</i> and <i>C</i> this network keeps a fast matrix
<i>A</i>. It is zero when an example begins, takes in the hidden state <i>h</i>(<i>t</i>) and fades:
a memory of the recent past, which the network reads at every step.</p>
<ul class="equations">
<li><i>A</i>(<i>t</i>) = λ <i>A</i>(<i>t</i>&minus;1) + η <i>h</i>(<i>t</i>) <i>h</i>(<i>t</i>)ᵀ
<span>(1)</span></li>
<li><i>h</i><sub><i>s</i>+1</sub>(<i>t</i>+1) = f(LN[<i>W</i> <i>h</i>(<i>t</i>) + <i>C</i>
<i>x</i>(<i>t</i>) + <i>A</i>(<i>t</i>) <i>h</i><sub><i>s</i></sub>(<i>t</i>+1)])
<span>(3)</span></li>
<li><i>A</i>(<i>t</i>) <i>h</i><sub><i>s</i></sub>(<i>t</i>+1) = η Σ<sub>τ≤<i>t</i></sub>
λ<sup><i>t</i>&minus;τ</sup> <i>h</i>(τ) [<i>h</i>(τ)·<i>h</i><sub><i>s</i></sub>(<i>t</i>+1)]
<span>(4)</span></li>
</ul>"""


# what a network without fast memory carries from one time step to the next
CARRIED = {
    "rnn": "its hidden state <i>h</i>(<i>t</i>)",
    "gru": "its hidden state <i>h</i>(<i>t</i>), of which gates let some through",
    "lstm": "its hidden state <i>h</i>(<i>t</i>) and cells <i>c</i>(<i>t</i>), which gates protect",
    "alstm": "its hidden state <i>h</i>(<i>t</i>), gated cells and an associative memory, bound to "
    "complex keys",
    "convnet": "what it has seen so far: it is no recurrent network, and answers at the end",
}


def headline(subject: Subject) -> str:
    """Which network is shown, and what its memory is."""
    core = subject.spec.core
    if isinstance(core, FastWeights) and core.inner_steps:
        return f"<h1>Fast weights, step by step</h1>{facts(subject)}{FAST}"
    kept = CARRIED.get(core.kind, CARRIED["rnn"])
    return (
        f"<h1>{escape(core.kind)}, step by step</h1>{facts(subject)}<p>This network has no fast "
        f"matrix. From step to step it carries {kept}.</p>"
    )


def facts(subject: Subject) -> str:
    """A line with the network's settings."""
    core = subject.spec.core
    told = [f"{core.kind}", f"R = {core.size} hidden units"]
    if isinstance(core, FastWeights):
        learned = " at first" if core.trained else ""
        told.append(f"decay λ = {core.decay:g}{learned}, rate η = {core.rate:g}{learned}")
        told.append(f"S = {core.inner_steps} {'read' if core.inner_steps == 1 else 'reads'} a step")
    return f"<p class='facts'>{escape(subject.name)}: {escape(', '.join(told))}.</p>"


def fault(message: str) -> str:
    """What went wrong, in one line."""
    return f"<p class='fault' role='alert'>{escape(message)}</p>"


def hint(message: str) -> str:
    """What to do first."""
    return f"<p class='hint'>{escape(message)}</p>"


def frame(story: Story, t: int) -> str:
    """A time step of a forward pass: the whole of what the page shows of it."""
    return (
        f"<div class='story' data-step='{t}'>{_answer(story)}{_looks(story, t)}"
        f"<div class='pair'>{_matrix(story, t)}{_chances(story, t)}</div>{_settling(story, t)}"
        "</div>"
    )


def _answer(story: Story) -> str:
    """The network's answer, and who computed it."""
    name, chance = story.answer(story.last)
    seen = "" if story.pictures is None else f"{_picture(story.pictures.whole, 'seen')} → "
    same = (
        f"this is {REFERENCE}, in float64"
        if story.place[0] == REFERENCE
        else f"largest difference of the logits to {REFERENCE}: {story.gap:.1e}"
    )
    return (
        f"<p class='answer'>{seen}{'answer' if not seen else ''} <b>{escape(name)}</b> "
        f"<span>{chance:.2%}</span></p>"
        f"<p class='place'>{escape(', '.join(story.place))}; {same}</p>"
    )


def _looks(story: Story, t: int) -> str:
    """The inputs in their order, each with the attention that step t pays to it."""
    reads = story.frames[t].looks or ({},)
    strips = "".join(_strip(story, t, look, number) for number, look in enumerate(reads, 1))
    if not story.fast:
        return f"<section><h3>The inputs, at step {t}</h3>{strips}</section>"
    if not any(reads):
        text = "Nothing is stored in A yet, so that there is nothing to look at."
    else:
        text = (
            "To read A is to look back (eq. 4): a stored step weighs η λ<sup>age</sup> "
            "<i>h</i>(τ)·<i>h<sub>s</sub></i>, the more, the more alike it is to the state now."
        )
        stored = sorted({step for look in reads for step in look})
        if len(stored) < t:
            text += f" Of the past, steps {', '.join(map(str, stored))} alone are stored in A."
    return f"<section><h3>Attention over the past</h3><p>{text}</p>{strips}</section>"


def _strip(story: Story, t: int, weights: Mapping[int, float], number: int) -> str:
    """One read: a box for each input, shaded by its weight, the weight below it."""
    largest = max((abs(weight) for weight in weights.values()), default=0.0) or 1.0
    boxes = []
    for step, label in enumerate(story.labels):
        weight = weights.get(step)
        state = "now" if step == t else "past" if step < t else "later"
        style = "" if weight is None else _shade(weight / largest)
        shown = escape(label) if story.pictures is None else _picture(story.pictures.views[step])
        below = "" if weight is None else f"{weight:.2f}"
        boxes.append(
            f"<li class='{state}' title='step {step}: {escape(label)}'>"
            f"<span class='input' {style}>{shown}</span><small>{below}</small></li>"
        )
    several = len(story.frames[t].looks) > 1
    label = f"<p class='read'>inner step {number}</p>" if several else ""
    return f"{label}<ol class='strip'>{''.join(boxes)}</ol>"


def _matrix(story: Story, t: int) -> str:
    """A after step t as a heat map, or what a network without A has; one scale at all steps."""
    if not story.fast:
        return _states(story, t)
    matrix = story.frames[t].matrix
    head = f"<section><h3>The fast matrix A({t})</h3>"
    if matrix is None:
        return f"{head}<p>Nothing is stored yet.</p></section>"
    size = len(matrix)
    colours = _colours(matrix / (story.scale or 1.0))
    return (
        f"{head}<p>{size} &times; {size} numbers (eq. 1), unit against unit: outer products of the "
        f"stored states, the old ones faded. Effective rank {effective_rank(matrix):.1f}.</p>"
        f"<img class='matrix' alt='A after step {t}' src='{_png(colours)}'>"
        f"<p class='scale'>0 <i></i> {story.scale:.3g}</p></section>"
    )


def _states(story: Story, t: int) -> str:
    """The hidden states up to step t as a heat map: a row a step, a column a unit."""
    states = np.array([frame.state for frame in story.frames])
    largest = float(np.abs(states).max()) or 1.0
    colours = _colours(np.where(np.arange(len(states))[:, None] <= t, states / largest, 0.0))
    return (
        f"<section><h3>The hidden state h({t})</h3><p>A row is a step, the latest one below, a "
        f"column one of {states.shape[1]} units; blue is above 0, orange below.</p>"
        f"<img class='matrix' alt='h up to step {t}' src='{_png(colours)}'>"
        f"<p class='scale'>0 <i></i> {largest:.3g}</p></section>"
    )


def _chances(story: Story, t: int) -> str:
    """The probability of each class after step t."""
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td><i style='width:{chance:.1%}'></i></td>"
        f"<td>{chance:.2%}</td></tr>"
        for name, chance in zip(story.classes, story.frames[t].chances, strict=True)
    )
    when = "the answer" if t == story.last else "if the network had to answer now"
    return (
        f"<section><h3>Prediction</h3><p>The head applied to <i>h</i>({t}): {when}.</p>"
        f"<table class='chances'>{rows}</table></section>"
    )


def _settling(story: Story, t: int) -> str:
    """The probabilities after each step, a row each."""
    head = "".join(f"<th>{escape(name)}</th>" for name in story.classes)
    rows = "".join(
        f"<tr{' class=now' if step == t else ''}><th>{_row_name(story, step)}</th>"
        f"{''.join(_cells(one.chances))}</tr>"
        for step, one in enumerate(story.frames)
    )
    return (
        "<section><h3>How the prediction settles</h3><p>The head applied to the state of every "
        "step, in percent; it is trained on the last row alone.</p>"
        f"<table class='settling'><tr><th>step</th>{head}</tr>{rows}</table></section>"
    )


def _row_name(story: Story, step: int) -> str:
    if story.pictures is None:
        return f"{step} <b>{escape(story.labels[step])}</b>"
    return f"{step} {_picture(story.pictures.views[step])}"


def _cells(chances: NumpyArray) -> Iterable[str]:
    for chance in chances:
        yield f"<td {_shade(float(chance))} title='{chance:.2%}'>{100 * chance:.0f}</td>"


def _shade(part: float) -> str:
    """The style of a cell: coloured by a number in [-1, 1], its text in what can be read on it."""
    red, green, blue = INK if part >= 0 else WARM
    text = "color:#fff;" if abs(part) > 0.5 else ""
    return f'style="{text}background:rgba({red},{green},{blue},{abs(part):.3f})"'


def _colours(values: NumpyArray) -> NumpyArray:
    """Numbers in [-1, 1] as colours, white at 0: (R, R) -> (R, R, 3) uint8."""
    ends = np.where(values[..., None] >= 0, np.array(INK), np.array(WARM))
    share = np.abs(values)[..., None]
    mixed: NumpyArray = np.rint(255 * (1 - share) + ends * share)
    return mixed.astype(np.uint8)


def _picture(values: NumpyArray, kind: str = "glimpse") -> str:
    """Grey values in [0, 1], (H, W), as they are in MNIST: light on dark."""
    pixels = np.rint(255 * values).astype(np.uint8)
    return f"<img class='{kind}' alt='{kind}' src='{_png(pixels)}'>"


def _png(pixels: NumpyArray) -> str:
    """Pixels (H, W) or (H, W, 3) uint8 as an address that holds the picture itself."""
    return _encoded(pixels.tobytes(), pixels.shape)


@lru_cache(maxsize=512)  # the glimpses of an example are on the page at all of its steps
def _encoded(data: bytes, shape: tuple[int, ...]) -> str:
    file = io.BytesIO()
    Image.fromarray(np.frombuffer(data, np.uint8).reshape(shape)).save(file, "PNG")
    return PREFIX + base64.b64encode(file.getvalue()).decode()
