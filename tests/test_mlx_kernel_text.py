"""The text of MLX's GPU kernels: what Metal, CUDA and C++ all read, and how MLX takes it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import need
from tests.mlx_stand_in import compiler


def test_mlx_takes_the_text_and_a_build_without_a_gpu_says_so() -> None:
    need("mlx")
    import mlx.core as mx

    from fwt.backends.mlx.kernels.fused import kernel

    if mx.is_available(mx.gpu):
        pytest.skip("this build has a GPU")
    for direction in ("forward", "backward"):
        made: Any = mx.fast.metal_kernel(**kernel.source(direction, "metal"))
        inputs = [mx.zeros((8,))] * len(kernel.INPUTS[direction])
        outputs = [(8,)] * len(kernel.OUTPUTS[direction])
        with pytest.raises(RuntimeError, match="No Metal back-end"):
            made(
                inputs=inputs,
                template=[("SIZE", 5), ("THREADS", 32)],
                grid=(32, 1, 1),
                threadgroup=(32, 1, 1),
                output_shapes=outputs,
                output_dtypes=[mx.float32] * len(outputs),
            )
        with pytest.raises(RuntimeError, match="No CUDA back-end"):
            mx.fast.cuda_kernel(**kernel.source(direction, "cuda"))
        with pytest.raises(RuntimeError, match="No CUDA back-end"):
            kernel.on_gpu(direction, 5, 1, inputs, outputs)


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("target", ["metal", "cuda"])
def test_the_text_is_what_all_three_languages_read(target: str, direction: str) -> None:
    need("mlx")
    from fwt.backends.mlx.kernels.fused import kernel

    made = kernel.source(direction, target)
    code = re.sub(r"//.*", "", made["header"] + made["source"])
    assert code.isascii()
    assert not re.search(r"\b(double|auto|std|nullptr|goto|throw|new|asm)\b|\[[&=]\]", code)
    for name in (*kernel.INPUTS[direction], *kernel.OUTPUTS[direction]):
        assert re.search(rf"\b{name}\b", made["source"]), f"{name} is not used"
    pointers = re.findall(r"(\S+) (?:const )?(?:float|int)\*", code)
    assert pointers
    assert set(pointers) <= {"FWT_DEVICE", "FWT_SHARED_POINTER", "fwt_sum(FWT_SHARED_POINTER"}
    shared = re.findall(r"FWT_SHARED float \w+\[(.+)\];", code)
    assert set(shared) == {"SIZE", "THREADS", "THREADS + FWT_PARTS"}
    bytes_ = 4 * sum(
        {"SIZE": kernel.LARGEST, "THREADS": kernel.MOST}.get(length, kernel.MOST + 8)
        for length in shared
    )
    assert bytes_ <= 32768, "threadgroup memory of Metal"


def test_the_name_tells_one_text_from_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLX keeps compiled kernels under their names, on CUDA from process to process."""
    need("mlx")
    from fwt.backends.mlx.kernels.fused import kernel

    before, text = kernel.source("forward", "cuda")["name"], kernel.text
    assert kernel.source("forward", "cuda")["name"] == before
    monkeypatch.setattr(kernel, "text", lambda name: text(name) + "\n")
    assert kernel.source("forward", "cuda")["name"] != before


METAL = """
#define device
#define threadgroup
#define constant
typedef unsigned int uint;
struct uint3 { uint x, y, z; };
namespace metal {
enum class mem_flags { mem_device = 1, mem_threadgroup = 2 };
mem_flags operator|(mem_flags, mem_flags);
void threadgroup_barrier(mem_flags);
float rsqrt(float);
}  // namespace metal
using namespace metal;
"""
POSITIONS = "uint thread_index_in_threadgroup, uint3 threadgroup_position_in_grid"


def arguments(direction: str, space: str) -> str:
    from fwt.backends.mlx.kernels.fused import kernel

    typed = [
        f"const {space}{'int' if name == 'plan' else 'float'}* {name}"
        for name in kernel.INPUTS[direction]
    ]
    return ", ".join([*typed, *(f"{space}float* {name}" for name in kernel.OUTPUTS[direction])])


def test_the_metal_text_parses(tmp_path: Path) -> None:
    """Metal is C++ with address spaces; without these g++ reads it, as MLX puts it together."""
    gcc = compiler()
    from fwt.backends.mlx.kernels.fused import kernel

    path = tmp_path / "metal.cpp"
    for direction in ("forward", "backward"):
        made = kernel.source(direction, "metal")
        signature = f"{arguments(direction, 'device ')}, {POSITIONS}"
        path.write_text(
            f"{METAL}{made['header']}\ntemplate <int SIZE, int THREADS>\n"
            f"void {made['name']}({signature}) {{\n{made['source']}\n}}\n"
            f"template void {made['name']}<5, 32>({signature});\n"
        )
        command = [gcc, "-std=c++14", "-fsyntax-only", "-Wall", "-Wno-unused-variable", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_the_cuda_text_compiles(tmp_path: Path) -> None:
    need("mlx")
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("no CUDA compiler here")
    from fwt.backends.mlx.kernels.fused import kernel

    path = tmp_path / "cuda.cu"
    text = ""
    for direction in ("forward", "backward"):
        made = kernel.source(direction, "cuda")
        text += (
            f"{made['header'] if not text else ''}\n__global__ void {made['name']}"
            f"({arguments(direction, '')}) {{\n"
            f"constexpr int SIZE = 50;\nconstexpr int THREADS = 64;\n{made['source']}\n}}\n"
        )
    path.write_text(text)
    command = [nvcc, "-std=c++17", "-arch=sm_90", "-ptx", str(path), "-o", str(tmp_path / "ptx")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stderr
