"""Gradients against the time step, on a logarithmic scale: how far back a network can learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fwt.plots.canvas import sheet
from fwt.plots.settings import defaults
from fwt.plots.styles import STYLES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = {
    "loss": r"$|\partial E / \partial h(\tau)|$",
    "jacobians": r"$\|\partial h(\tau+1) / \partial h(\tau)\|$",
    "reach": r"$\|\partial h(T) / \partial h(\tau)\|$",
}


@defaults()
def gradients(networks: Sequence[Mapping[str, Any]]) -> Figure:
    """One line a network in each panel; first weights are dashed, their marks empty.

    Args:
        networks: their `label`, `weights` (`trained` or `first`) and the numbers of each panel.
    """
    figure, axes = sheet(1, len(PANELS), (10.5, 3.4))
    labels = list(dict.fromkeys(network["label"] for network in networks))
    for axis, (name, title) in zip(axes[0], PANELS.items(), strict=True):
        for network in networks:
            colour, _, marker = STYLES[labels.index(network["label"]) % len(STYLES)]
            axis.plot(
                [max(number, 1e-30) for number in network[name]],
                linestyle="-" if network["weights"] == "trained" else "--",
                color=colour,
                marker=marker,
                markersize=4,
                markerfacecolor=colour if network["weights"] == "trained" else "white",
                label=f"{network['label']}, {network['weights']}",
            )
        axis.set_yscale("log")
        axis.set_xlabel(r"$\tau$, time step")
        axis.set_title(title)
    axes[0, 0].legend(fontsize=7)
    return figure
