"""What Gradio reads of this process, as the page needs it: its own folder, no window, no proxy."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

from fwt.fwcore.errors import FileError
from fwt.fwcore.variables import variables


@contextmanager
def surroundings() -> Iterator[None]:
    """Hold, while the page is served, what Gradio needs; to be entered before it is imported.

    Its temporary files lie in a folder of mode 0700, which is removed afterwards: the one that it
    would take is shared by all users, and belongs to the first of them. It counts nobody's use.
    Matplotlib, which it asks for its backend at each click, looks for no window.

    Raises:
        FileError: there is no room for temporary files.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix="fwt-demo-", ignore_cleanup_errors=True)
    except OSError as error:
        raise FileError(
            f"demo: no temporary folder can be made: {error.strerror}; TMPDIR names where"
        ) from error
    with (
        folder as own,
        variables(GRADIO_TEMP_DIR=own, GRADIO_ANALYTICS_ENABLED="False", MPLBACKEND="agg"),
    ):
        with suppress(ImportError):  # without Matplotlib, Gradio does not ask
            import fwt.plots.settings  # noqa: F401 imported here it is whatever its settings are
        yield


def past_proxies() -> AbstractContextManager[None]:
    """No proxy is used inside; for the start, when Gradio asks its own page whether it is there.

    To name this machine would not do: the client of HTTP sets up every proxy of the environment,
    also one that it is not going to use, and fails at those it does not know.
    """
    return variables(no_proxy="*")  # goes before NO_PROXY, in small letters
