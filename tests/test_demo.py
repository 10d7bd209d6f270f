"""`fwt demo` in a real browser: what it shows is what the networks compute."""

from __future__ import annotations

import base64
import io
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fwt import backends, tasks
from fwt.demo import digit, examples, steps, view
from fwt.fwcore.analysis.compare import LOGIT_TOLERANCE, softmax
from fwt.fwcore.analysis.trace import Trace
from fwt.fwcore.errors import DataError
from fwt.fwcore.spec import ModelSpec
from fwt.fwcore.storage.checkpoint import Checkpoint
from fwt.fwcore.storage.runs import find_checkpoint
from fwt.tasks.datasets import images
from tests import cases
from tests.browser import DESKTOP, PHONE, visit
from tests.cli_tools import (
    ROOT,
    clean_environment,
    environment,
    good,
)

STRINGS = ROOT / "checkpoints" / "retrieval-fast-weights-r20"
DIGITS = ROOT / "checkpoints" / "mnist-glimpse-fast-weights-r50"
EXAMPLE = "a1b2d7??d"
SIZES = pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
ROUNDED = 0.0051  # percent: two digits are shown

# the command, in a process that tells of every address that is not this machine's
WATCHED = """
import sys

def outside(event, args):
    place = {"socket.connect": args[1:2], "socket.getaddrinfo": args[:1]}.get(event)
    host = place and (place[0][0] if isinstance(place[0], tuple) else place[0])
    if host and host not in ("127.0.0.1", "localhost", "::1"):
        print("OUTSIDE", event, host, file=sys.stderr, flush=True)

sys.addaudithook(outside)
from fwt.cli.main import run
sys.exit(run(sys.argv[1:]))
"""

# what a tab shows, read at once
READ = """panel => {
  const text = (place) => [...panel.querySelectorAll(place)].map((one) => one.textContent);
  return {
    answer: text(".answer b")[0],
    chance: text(".answer span")[0],
    place: text(".place")[0],
    weights: text(".strip small"),
    names: text(".chances th"),
    chances: text(".chances td:last-child").map(parseFloat),
    settling: [...panel.querySelectorAll(".settling tr + tr")].map((row) =>
      [...row.querySelectorAll("td")].map((cell) => parseFloat(cell.title))),
    now: [...panel.querySelectorAll(".settling tr + tr")].findIndex((r) => r.className == "now"),
    matrix: panel.querySelector("img.matrix")?.src,
    picture: panel.querySelector("img.seen")?.src,
  };
}"""


@dataclass(frozen=True)
class Served:
    process: subprocess.Popen[str]
    address: str
    errors: Path
    shared: Path  # the folder for temporary files, where that of Gradio is somebody else's


@pytest.fixture(scope="module", name="served")
def _served(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The command, once it serves its page; it begins on the backend that starts fastest.

    Its environment is one in which a page with Gradio usually does not start: proxies that refuse
    and that cannot be had, a folder that cannot be written, a window that is not there.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    errors = tmp_path_factory.mktemp("demo") / "err"
    shared = tmp_path_factory.mktemp("shared")
    (shared / "gradio").write_text("for root, too, this is no folder")
    refusing = socket.socket()
    refusing.bind(("127.0.0.1", 0))  # and does not listen
    proxy = f"127.0.0.1:{refusing.getsockname()[1]}"
    hostile = {
        "TMPDIR": str(shared),
        "HTTP_PROXY": f"http://{proxy}",
        "HTTPS_PROXY": f"http://{proxy}",
        "ALL_PROXY": f"socks5://{proxy}",
        "NO_PROXY": "example.invalid",
        "MPLBACKEND": "module://no_such_package.backend",
    }
    words = [sys.executable, "-c", WATCHED, "demo", "--port", str(port), "--backend", "numpy"]
    with errors.open("w") as err:
        process = subprocess.Popen(
            words,
            stdout=subprocess.PIPE,
            stderr=err,
            text=True,
            cwd=ROOT,
            env=environment(**hostile),
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert f"http://127.0.0.1:{port}" in line, errors.read_text()
        yield Served(process, f"http://127.0.0.1:{port}", errors, shared)
    finally:
        process.kill()
        process.communicate()
        refusing.close()


@pytest.fixture(scope="module", name="expect")
def _expect(browser: Any) -> Any:
    """Playwright's, with patience for a machine that is busy."""
    from playwright.sync_api import expect

    expect.set_options(timeout=60_000)
    return expect


def tab(seen: Any, name: str) -> Any:
    seen.page.get_by_role("tab", name=name).click()
    return seen.page.get_by_role("tabpanel").filter(visible=True)


def at(panel: Any, t: int) -> Any:
    """What is shown, once it is of time step t."""
    panel.locator(f".story[data-step='{t}']").wait_for()
    return panel.evaluate(READ)


def pixels(address: str) -> Any:
    """A picture of the page, out of its address."""
    data = base64.b64decode(address.removeprefix(digit.PREFIX))
    return np.asarray(Image.open(io.BytesIO(data)))


def computed(path: Path, inputs: Any) -> tuple[Checkpoint, Trace]:
    """A checkpoint, and what the reference makes of an example."""
    found = find_checkpoint(path)
    return found, backends.load("numpy").compile(found.spec.model, found.params).trace(inputs[None])


def percents(found: Checkpoint, h: Any) -> Any:
    """The head, written out: probabilities in percent of states (n, R)."""
    p = {name: array.astype(np.float64) for name, array in found.params.items()}
    h = np.maximum(h @ p["head.hidden.weight"].T + p["head.hidden.bias"], 0)
    return 100 * softmax(h @ p["head.output.weight"].T + p["head.output.bias"])


def check_clean(seen: Any) -> None:
    assert (seen.fetched, seen.complaints, seen.overflow()) == ([], [], 0)


def type_string(panel: Any, text: str) -> None:
    panel.get_by_role("textbox").fill(text)
    panel.get_by_role("textbox").press("Enter")


@SIZES
def test_each_time_step_of_a_string_is_what_the_network_computed(browser, served, expect, size):
    reader = tasks.reader(tasks.parse({"kind": "retrieval"}))
    found, traced = computed(STRINGS, reader.parse(EXAMPLE))
    want = percents(found, np.concatenate([step.output for step in traced.steps]))
    matrices = np.array([step.matrix[0] for step in traced.steps])
    with visit(browser, served.address, size) as seen:
        panel = tab(seen, "String")
        type_string(panel, EXAMPLE)
        expect(panel.locator(".strip .input")).to_have_text(list(EXAMPLE))
        for t in reversed(range(len(EXAMPLE))):
            shown = at(panel, t)
            assert (shown["answer"], shown["now"]) == ("7", t)
            assert shown["chances"] == pytest.approx(want[t], abs=ROUNDED)
            np.testing.assert_allclose(shown["settling"], want, atol=ROUNDED)
            read = traced.steps[t].reads[0]
            weights = dict(zip(read.steps, read.weights[0], strict=True))
            told = [f"{weights[s]:.2f}" if s in weights else "" for s in range(len(EXAMPLE))]
            assert shown["weights"] == told
            share = 1 - pixels(shown["matrix"])[:, :, 0] / 255
            np.testing.assert_allclose(share, matrices[t] / matrices.max(), atol=0.5 / 255 + 1e-9)
            if t > 0:
                panel.get_by_role("button", name="Back").click()
        panel.get_by_role("button", name="Next").click()
        assert at(panel, 1)["now"] == 1
        panel.get_by_role("spinbutton").fill("5")
        panel.get_by_role("spinbutton").press("Enter")
        assert at(panel, 5)["now"] == 5
        check_clean(seen)


def test_every_backend_gives_the_same_numbers(browser, served, expect):
    reader = tasks.reader(tasks.parse({"kind": "retrieval"}))
    _, traced = computed(STRINGS, reader.parse(EXAMPLE))
    names = [name for name in backends.BACKENDS if backends.installed(name)]
    with visit(browser, served.address) as seen:
        panel = tab(seen, "String")
        expect(panel.get_by_role("radio")).to_have_count(len(names))
        type_string(panel, EXAMPLE)
        expect(panel.locator(".strip .input")).to_have_text(list(EXAMPLE))
        panel.get_by_role("button", name="Back").click()
        first = at(panel, len(EXAMPLE) - 2)
        assert "this is numpy, in float64" in first["place"]
        for name in sorted(names, key="numpy".__eq__):  # and back to numpy
            panel.get_by_role("radio", name=name).check()
            expect(panel.locator(".place")).to_contain_text(f"{name}, cpu, ")
            shown = at(panel, len(EXAMPLE) - 2)  # the time step stays
            assert [shown[key] for key in ("answer", "chance", "weights")] == [
                first[key] for key in ("answer", "chance", "weights")
            ]
            assert shown["chances"] == pytest.approx(first["chances"], abs=2 * ROUNDED)
            if name != "numpy":
                gap = float(re.findall(r"to numpy: (\S+)", shown["place"])[0])
                assert 0 < gap <= LOGIT_TOLERANCE * np.abs(traced.scores).max()
        check_clean(seen)


def draw(panel: Any, *points: tuple[float, float]) -> None:
    """A stroke of the mouse through points, in parts of the page that is drawn on."""
    canvas = panel.locator("canvas")
    canvas.scroll_into_view_if_needed()
    box, mouse = canvas.bounding_box(), canvas.page.mouse
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    mouse.move(*places[0])
    mouse.down()
    for place in places[1:]:
        mouse.move(*place, steps=4)
    mouse.up()


def check_drawn(shown: Any, folder: Path) -> str:
    """The answer, once it is held against `fwt predict` and the equations for the same image."""
    image = pixels(shown["picture"])
    path = folder / "drawn.npy"
    np.save(path, image)
    told = good("predict", DIGITS, path, "--top", 10, "--json").json["predictions"][0]
    chances = {one["answer"]: 100 * one["probability"] for one in [told, *told["others"]]}
    assert shown["answer"] == told["answer"]
    got = dict(zip(shown["names"], shown["chances"], strict=True))
    assert got == pytest.approx(chances, abs=ROUNDED)
    reader = tasks.reader(tasks.parse({"kind": "mnist-glimpse"}))
    found, traced = computed(DIGITS, reader.parse(str(path)))
    states = np.concatenate([step.output for step in traced.steps])
    np.testing.assert_allclose(shown["settling"], percents(found, states), atol=ROUNDED)
    return str(shown["answer"])


@SIZES
def test_a_digit_is_drawn_with_the_mouse_and_named(
    browser, served, expect, size, tmp_path, monkeypatch
):
    clean_environment(monkeypatch)
    with visit(browser, served.address, size) as seen:
        panel = tab(seen, "Digit")
        draw(panel, (0.5, 0.1), (0.5, 0.9))
        first = at(panel, 23)
        rows, columns = (np.flatnonzero(pixels(first["picture"]).any(axis)) for axis in (1, 0))
        assert (np.ptp(rows) + 1, np.ptp(columns) < 6) == (20, True)
        assert check_drawn(first, tmp_path) == "1"
        draw(panel, (0.5, 0.1), (0.2, 0.1))
        expect(panel.locator("img.seen")).not_to_have_attribute("src", first["picture"])
        second = at(panel, 23)
        assert second["settling"] != first["settling"]
        check_drawn(second, tmp_path)
        panel.get_by_role("button", name="Back").click()
        assert at(panel, 22)["now"] == 22
        panel.get_by_role("button", name="Clear").click()
        expect(panel.get_by_role("alert")).to_contain_text("got an empty page")
        check_clean(seen)


def test_random_examples_are_shown_and_played(browser, served, expect):
    with visit(browser, served.address) as seen:
        panel = tab(seen, "String")
        for number in range(2):
            panel.get_by_role("button", name="Random").click()
            text = examples.string(4, number)
            expect(panel.get_by_role("textbox")).to_have_value(text)
            expect(panel.locator(".strip .input")).to_have_text(list(text))
        panel.get_by_role("textbox").fill("z3??z")
        panel.get_by_role("button", name="Answer").click()
        assert at(panel, 4)["answer"] == "3"
        panel.get_by_role("button", name="Play").click()
        at(panel, 0)
        panel.get_by_role("button", name="Pause").click()
        expect(panel.get_by_role("button", name="Play")).to_have_count(1)
        panel.get_by_role("button", name="Play").click()
        at(panel, 4)
        expect(panel.get_by_role("button", name="Play")).to_have_count(1)
        panel = tab(seen, "Digit")
        panel.get_by_role("button", name="Random").click()
        image = digit.like_mnist(digit.ink_of(examples.drawing(0)))
        np.testing.assert_array_equal(pixels(at(panel, 23)["picture"]), image)
        check_clean(seen)


def test_a_dark_page_has_a_dark_matrix(browser, served, expect):
    context = browser.new_context(color_scheme="dark")
    page = context.new_page()
    page.goto(served.address)
    matrix = page.locator("img.matrix").first
    matrix.wait_for()
    style = matrix.evaluate("image => getComputedStyle(image).filter")
    assert style == "invert(1) hue-rotate(180deg)"
    context.close()


def test_a_bad_string_is_one_line_with_its_position_and_the_next_is_read(browser, served, expect):
    with visit(browser, served.address, PHONE) as seen:
        panel = tab(seen, "String")
        type_string(panel, "<b>8??c")
        alert = panel.get_by_role("alert")
        expect(alert).to_have_count(1)
        expect(alert).to_contain_text(
            "input '<b>8??c': position 1: expected a letter a-z, got unknown symbol '<'"
        )
        assert panel.locator(".story").count() == 0
        panel.get_by_role("button", name="Back").click()  # there is nothing to go back in
        type_string(panel, "z3??z")
        assert at(panel, 4)["answer"] == "3"
        expect(alert).to_have_count(0)
        check_clean(seen)


def test_a_digit_of_mnist_drawn_large_becomes_itself():
    digits = images("mnist-subset", None).test_images[:50]
    large = np.ones((10, 10), np.uint8)
    for image in digits:
        np.testing.assert_array_equal(digit.like_mnist(np.kron(image, large)), image)


def test_a_drawing_is_scaled_and_centred_by_its_mass():
    ink = np.zeros((280, 280), np.uint8)
    ink[5:105, 200:210] = 255  # a stroke of 100 x 10, which becomes 20 x 2
    ink[5:15, 160:200] = 255  # and one to its left, at the top: 2 x 8
    want = np.zeros((28, 28), np.uint8)
    # 40 pixels have their centre at (9.5, 8.5), 16 at (0.5, 3.5): together (6.93, 7.07)
    want[7:27, 15:17] = 255
    want[7:9, 7:15] = 255
    np.testing.assert_array_equal(digit.like_mnist(ink), want)


@pytest.mark.parametrize("address", ["", "data:image/png;base64,AAAA", "data:text/html;base64,AA"])
def test_what_is_no_picture_is_refused(address):
    with pytest.raises(DataError, match="drawing: expected a PNG"):
        digit.ink_of(address)


def test_the_ink_of_a_picture_is_how_opaque_it_is():
    file = io.BytesIO()
    Image.fromarray(np.array([[[9, 9, 9, 0], [0, 0, 0, 200]]], np.uint8)).save(file, "PNG")
    address = digit.PREFIX + base64.b64encode(file.getvalue()).decode()
    assert digit.ink_of(address).tolist() == [[0, 200]]


def told_of(**core: Any) -> steps.Story:
    """A pass of a small network with random weights over a string."""
    encoder = {"kind": "embedding", "symbols": 37, "size": 4}
    spec = ModelSpec.parse(
        {"encoder": encoder, "core": {"size": 5, **core}, "head": {"classes": 10}}, "test"
    )
    model = backends.load("numpy").compile(spec, cases.params_of(spec))
    reader = tasks.reader(tasks.parse({"kind": "retrieval"}))
    subject = steps.Subject("test", spec, reader, lambda name: model)
    return steps.tell(subject, reader.parse("a1b2??a"), "numpy")


def test_a_network_without_fast_memory_has_predictions_alone():
    shown = view.frame(told_of(kind="lstm"), 3)
    assert "Attention" not in shown
    assert "fast matrix" not in shown
    assert "The hidden state h(3)" in shown
    assert shown.count("<tr") == 10 + 1 + 7
    story = told_of(kind="lstm")
    states = np.array([frame.state for frame in story.frames])
    picture = pixels(re.findall(r"class='matrix'[^>]+src='([^']+)'", shown)[0])
    assert picture.shape == (7, 5, 3)
    white = np.abs(255 - picture.astype(int)).sum(2) == 0
    assert white[4:].all()  # what has not happened yet
    assert (~white[:4]).sum() >= (np.abs(states[:4]) > 0.01 * np.abs(states).max()).sum()


def test_examples_are_drawn_in_an_order_of_their_own():
    reader = tasks.reader(tasks.parse({"kind": "retrieval"}))
    strings = [examples.string(2, number) for number in range(5)]
    assert strings == [examples.string(2, number) for number in range(5)]
    assert len(set(strings)) == 5
    assert [len(reader.parse(text)) for text in strings] == [7] * 5
    known = {image.tobytes() for image in images("mnist-subset", None).test_images}
    drawn = [digit.like_mnist(digit.ink_of(examples.drawing(number))) for number in range(3)]
    assert {image.tobytes() for image in drawn} <= known
    assert len({image.tobytes() for image in drawn}) == 3


def test_inner_steps_and_stored_steps_are_told_apart():
    story = told_of(kind="fast-weights", inner_steps=2, store=(1, 3))
    assert "Nothing is stored in A yet" in view.frame(story, 1)
    shown = view.frame(story, 5)
    assert "steps 1, 3 alone are stored" in shown
    for number, look in enumerate(story.frames[5].looks, 1):
        strip = shown.split(f"inner step {number}")[1].split("</ol>")[0]
        assert [float(w) for w in re.findall(r"<small>([^<]+)</small>", strip)] == pytest.approx(
            [look[1], look[3]], abs=0.0051
        )


def test_ctrl_c_ends_it_while_a_page_is_open(browser, served):
    """The last test of the page; nothing was said or fetched from elsewhere during all of them."""
    with visit(browser, served.address) as seen:
        panel = tab(seen, "String")
        panel.get_by_role("button", name="Back").click()
        at(panel, 9)
        (own,) = served.shared.glob("fwt-demo-*")
        assert own.stat().st_mode & 0o777 == 0o700
        served.process.send_signal(signal.SIGINT)
        assert served.process.wait(timeout=30) == 130
    assert served.errors.read_text() == "demo: stopped\n"
    assert [path.name for path in served.shared.iterdir()] == ["gradio"]
