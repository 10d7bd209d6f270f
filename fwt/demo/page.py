"""The page itself, with Gradio: a tab for each network, and what happens on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from fwt.demo import digit, examples, playing, view
from fwt.demo.steps import Story, Subject, tell
from fwt.fwcore.errors import FwtError
from fwt.fwcore.ops import NumpyArray
from fwt.tasks.glimpses import cut
from fwt.tasks.mnist_glimpse import GlimpseReader

HERE = Path(__file__).parent
EXAMPLE = "c9k8j3f1??c"  # the string to begin with
SIDE = 280  # pixels along the page that is drawn on: ten of the image's
PAPER = (
    f"<canvas width='{SIDE}' height='{SIDE}' aria-label='Draw a digit'></canvas>"
    "<button type='button'>Clear</button>"
)
DRAW = (
    "Draw one digit, with the mouse or a finger. It is scaled and centred as the images of MNIST "
    "were; after each stroke the network looks at it, glimpse by glimpse, and answers."
)
SYSTEM = ("ui-sans-serif", "system-ui", "sans-serif")
FIXED = ("ui-monospace", "Consolas", "monospace")

Read = Callable[[Any], NumpyArray]
Shown = tuple[Story | None, str, Any]  # the state, the page's HTML, the slider

# one thing is computed at a time, and what is on the way is shown by what it replaces alone
QUIET: dict[str, Any] = {
    "api_visibility": "private",
    "concurrency_id": "network",
    "concurrency_limit": 1,
    "show_progress": "hidden",
}


def serve(
    subjects: Sequence[Subject], names: Sequence[str], first: str, host: str, port: int
) -> gr.Blocks:
    """Begin to serve the page, in a thread; `close()` of what is returned ends it.

    Nothing is fetched from elsewhere: fonts are the system's, analytics and sharing are off.

    Args:
        subjects: the networks, a tab each, those that read strings first.
        names: of the backends that can be chosen.
        first: the one that is chosen to begin with.
        host: address that is listened on.
        port: that is listened on.

    Raises:
        FwtError: the backend cannot be had.
    """
    blocks = build(subjects, names, first)
    blocks.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        ssr_mode=False,
        run_history=False,
        footer_links=[],
        theme=gr.themes.Default(font=SYSTEM, font_mono=FIXED),  # pyright: ignore[reportPrivateImportUsage]
        css_paths=HERE / "page.css",
    )
    return blocks


def build(subjects: Sequence[Subject], names: Sequence[str], first: str) -> gr.Blocks:
    """The page, not yet served; the arguments are those of `serve`."""
    blocks = gr.Blocks(title="fwt demo", analytics_enabled=False)
    with blocks, gr.Tabs():
        for number, subject in enumerate(sorted(subjects, key=lambda one: one.drawn)):
            kind = "Digit" if subject.drawn else "String"
            alone = sum(one.drawn == subject.drawn for one in subjects) == 1
            label = kind if alone else f"{kind}: {subject.name}"
            with gr.Tab(label, elem_id=f"network-{number}"):
                gr.HTML(view.headline(subject), elem_classes="headline")
                (_drawings if subject.drawn else _strings)(subject, names, first)
    return blocks


def _strings(subject: Subject, names: Sequence[str], first: str) -> None:
    """A tab where a string is typed."""
    show = _shower(subject, subject.reader.parse)
    with gr.Row(equal_height=True):
        text = gr.Textbox(
            EXAMPLE,
            label="String: letter-digit pairs, ?? and one of the letters",
            max_lines=1,
            min_width=240,
            scale=3,
        )
        with gr.Column(min_width=140, scale=1):
            go = gr.Button("Answer", variant="primary")
            another = gr.Button("Random")
        backend = _backends(names, first)
    shown = _stepping(show(EXAMPLE, first), show, text, backend)
    given = {"fn": show, "inputs": [text, backend], "outputs": shown, **QUIET}
    text.submit(**given)
    go.click(**given)
    number = gr.State(0)

    def draw(number: int) -> tuple[str, int]:
        return examples.string(subject.pairs, number), number + 1

    another.click(draw, number, [text, number], **QUIET).then(**given)


def _drawings(subject: Subject, names: Sequence[str], first: str) -> None:
    """A tab where a digit is drawn."""
    reader = subject.reader
    assert isinstance(reader, GlimpseReader)  # noqa: S101 that is who comes here

    def read(drawing: str) -> NumpyArray:
        image = digit.like_mnist(digit.ink_of(drawing))
        found: NumpyArray = cut(image[None], reader.policy)[0]
        return found

    def hold(event: gr.EventData) -> str:
        """The drawing, out of the event that brings it."""
        return str(event.image)

    show = _shower(subject, read)
    with gr.Row():
        paper = gr.HTML(
            html_template=PAPER,
            js_on_load=(HERE / "draw.js").read_text(encoding="utf-8"),
            elem_classes="paper",
        )
        with gr.Column(min_width=240):
            gr.HTML(view.hint(DRAW))
            another = gr.Button("Random image")
            backend = _backends(names, first)
    drawing, number = gr.State(None), gr.State(0)
    paper.input(hold, None, drawing, **QUIET)
    shown = _stepping(show(None, first), show, drawing, backend)
    drawing.change(show, [drawing, backend], shown, **QUIET)

    def draw(number: int) -> tuple[Any, int, Any]:
        """The next image; where there is none, what is wrong."""
        try:
            return examples.drawing(number), number + 1, gr.skip()
        except FwtError as error:
            return gr.skip(), number, view.fault(str(error))

    another.click(draw, number, [paper, number, shown[1]], **QUIET)


def _backends(names: Sequence[str], first: str) -> gr.Radio:
    return gr.Radio(
        list(names), value=first, label="Backend: the numbers are the same", min_width=240, scale=2
    )


def _shower(subject: Subject, read: Read) -> Callable[..., Shown]:
    """What shows an example on a backend: the whole forward pass, at one of its time steps."""

    def show(example: Any, backend: str, t: int | None = None) -> Shown:
        if example is None:  # nothing is drawn yet
            return None, "", _slider(None)
        try:
            story = tell(subject, read(example), backend)
        except FwtError as error:
            return None, view.fault(str(error)), _slider(None)
        now = story.last if t is None else min(t, story.last)
        return story, view.frame(story, now), _slider(story, now)

    return show


def _slider(story: Story | None, t: int = 0) -> Any:
    """What the slider becomes for a story; hidden where there is no step to choose."""
    last = story.last if story is not None else 0
    return gr.update(maximum=max(last, 1), value=t, visible=last > 0)


def _stepping(begun: Shown, show: Callable[..., Shown], example: Any, backend: Any) -> list[Any]:
    """The controls of time, the view, and what happens with them.

    Args:
        begun: what is shown first.
        show: see `_shower`.
        example: the component that holds the example.
        backend: the component that holds the backend's name.

    Returns:
        The components that `show` fills.
    """
    state = gr.State(begun[0])
    last = 0 if begun[0] is None else begun[0].last
    with gr.Row(elem_classes="time"):
        play = gr.Button(playing.PLAY, min_width=100, scale=1)
        back = gr.Button("◀ Back", min_width=100, scale=1)
        time = gr.Slider(
            0, max(last, 1), last, step=1, label="Time step t", visible=last > 0, scale=6
        )
        onward = gr.Button("Next ▶", min_width=100, scale=1)
    html = gr.HTML(begun[1], elem_classes="view")
    shown = [state, html, time]
    backend.input(show, [example, backend, time], shown, **QUIET)

    def at(story: Story | None, t: int) -> Any:
        return gr.skip() if story is None else view.frame(story, t)

    time.input(at, [state, time], html, trigger_mode="always_last", **QUIET)
    for button, by in ((back, -1), (onward, 1)):
        button.click(playing.mover(by), [state, time], [time, html], **QUIET)
    clock = gr.Timer(playing.PACE, active=False)
    moved = [clock, play, time, html]
    play.click(playing.toggle, [state, time, play], moved, **QUIET)
    clock.tick(playing.tick, [state, time], moved, trigger_mode="once", **QUIET)
    return shown
