# Every target does its own set-up on a fresh clone and is quick the second time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO ?= runs/demo

.PHONY: demo test results bench lint check clean

$(READY): pyproject.toml setup.py backends/torch/fused/kernel.cpp
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(READY)

# A network learns on MLX, goes on on PyTorch from the same checkpoint, and all backends agree.
demo: $(READY)
	rm -rf $(DEMO)
	$(BIN)/fwt train --backend mlx --task retrieval --pairs 2 --size 20 --rate 0.1 --lr 3e-3 --epochs 4 --stop-after 1562 --out $(DEMO)
	$(BIN)/fwt train --backend torch --resume $(DEMO)
	$(BIN)/fwt verify $(DEMO) --backends numpy,torch,mlx

# All tests, with both backends required: a missing one is a failure, not a skip.
test: $(READY)
	FWT_REQUIRE_BACKENDS=torch,mlx FWT_OFFLINE=1 $(BIN)/python -m pytest

# The runs behind the README's table: about an hour on two cores. FWT_DATA_DIR names a folder with
# the full MNIST, else it is downloaded.
results: $(READY)
	for seed in 0 1 2; do $(BIN)/fwt train --backend torch --task retrieval --size 20 --seed $$seed --out runs/results/retrieval-r20-s$$seed-torch; done
	$(BIN)/fwt train --backend torch --task retrieval --size 50 --seed 0 --out runs/results/retrieval-r50-s0-torch
	$(BIN)/fwt train --backend mlx --task retrieval --size 20 --seed 0 --out runs/results/retrieval-r20-s0-mlx
	$(BIN)/fwt train --backend torch --task mnist-glimpse --size 50 --seed 0 --dataset mnist --out runs/results/glimpse-r50-s0-torch
	$(BIN)/python -m tools.collect_results runs/results benchmarks/results/recipes.json

# What a step costs beside the frameworks' own layers, on the CPU: leave the machine alone meanwhile.
bench: $(READY)
	$(BIN)/fwt bench --backend torch --device cpu --growth --loop --population --out benchmarks/results/bench-torch-cpu.json --plot benchmarks/results
	$(BIN)/fwt bench --backend mlx --device cpu --loop --population --out benchmarks/results/bench-mlx-cpu.json --plot benchmarks/results

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test

clean:
	rm -rf $(VENV) build *.egg-info
