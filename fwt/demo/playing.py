"""The clock of a tab: play goes on by a step a tick, until the last one or a pause."""

from __future__ import annotations

from typing import Any

import gradio as gr

from fwt.demo import view
from fwt.demo.steps import Story

PACE = 0.7  # seconds a step
PLAY, PAUSE = "▶ Play", "❚❚ Pause"


def mover(by: int) -> Any:
    """What goes on by so many steps, within the sequence."""

    def move(story: Story | None, t: int) -> Any:
        if story is None:
            return gr.skip(), gr.skip()
        now = min(max(t + by, 0), story.last)
        return now, view.frame(story, now)

    return move


def toggle(story: Story | None, t: int, name: str) -> Any:
    """Play or pause: clock, its button, time and view. At its end, a sequence begins again."""
    if story is None or name == PAUSE:
        return gr.update(active=False), PLAY, gr.skip(), gr.skip()
    now = 0 if t >= story.last else t
    return gr.update(active=True), PAUSE, now, view.frame(story, now)


def tick(story: Story | None, t: int) -> Any:
    """One step on; the last one stops the clock."""
    if story is None or t >= story.last:
        return gr.update(active=False), PLAY, gr.skip(), gr.skip()
    now = t + 1
    on = now < story.last
    return gr.update(active=on), PAUSE if on else PLAY, now, view.frame(story, now)
