# Every target does its own set-up on a fresh clone and is quick the second time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO ?= runs/demo

.PHONY: demo test lint check clean

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(READY)

# A network learns on MLX, goes on on PyTorch from the same checkpoint, and all backends agree.
demo: $(READY)
	rm -rf $(DEMO)
	$(BIN)/fwt train --backend mlx --task retrieval --pairs 2 --size 20 --epochs 4 --stop-after 1562 --out $(DEMO)
	$(BIN)/fwt train --backend torch --resume $(DEMO)
	$(BIN)/fwt verify $(DEMO) --backends numpy,torch,mlx

# All tests, with both backends required: a missing one is a failure, not a skip.
test: $(READY)
	FWT_REQUIRE_BACKENDS=torch,mlx FWT_OFFLINE=1 $(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test

clean:
	rm -rf $(VENV) build *.egg-info
