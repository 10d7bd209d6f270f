# Every target does its own set-up on a fresh clone and is quick the second time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO ?= runs/demo

.PHONY: demo test test-lowest test-newest reproduce search bench docs figures fuzz misuse ranks torture drift sanitize lint check clean

$(READY): pyproject.toml setup.py $(wildcard backends/*/*.cpp backends/*/*/*.cpp backends/*/*/*/*.cpp)
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
	@echo "Half of the test strings with two pairs are in the training split, too: for a figure that counts, train with --pairs 4."

# All tests, a process a core, both backends required: a missing one is a failure, not a skip.
test: $(READY)
	FWT_REQUIRE_BACKENDS=torch,mlx FWT_OFFLINE=1 $(BIN)/python -m pytest -n logical --dist loadfile

# The same with the lowest and the newest versions that pyproject.toml allows of what fwt names, in a
# fresh environment outside of the tree; a part of it: TESTS='tests/test_gradients.py'
test-lowest test-newest: $(READY)
	$(BIN)/python -m tools.versions $(@:test-%=%) $(TESTS)

# Every cell of both published tables, with the controls and the longer strings: many hours on two
# cores. Stored runs are not run again; REPRODUCE='--out DIR' runs all of them here. FWT_DATA_DIR
# names a folder with the full MNIST, else it is downloaded.
reproduce: $(READY)
	$(BIN)/fwt reproduce retrieval --group table --group control --group harder $(REPRODUCE)
	$(BIN)/fwt reproduce mnist-glimpse $(REPRODUCE)

# The same search over settings for every model of both tables: hours on two cores; goes on after a stop.
search: $(READY)
	$(BIN)/fwt sweep fwt/reproduce/search/retrieval.toml
	$(BIN)/fwt sweep fwt/reproduce/search/mnist-glimpse.toml
	for task in retrieval mnist-glimpse; do \
	  cp runs/sweeps/search-$$task/summary.json results/search-$$task.json; done

# What a step costs beside the frameworks' own layers, on the CPU: leave the machine alone meanwhile.
bench: $(READY)
	$(BIN)/fwt bench --backend torch --device cpu --growth --loop --population --out results/bench-torch-cpu.json --plot results
	$(BIN)/fwt bench --backend mlx --device cpu --loop --population --out results/bench-mlx-cpu.json --plot results

# The guides and the API as a site in build/docs, without a warning.
docs: $(READY)
	$(BIN)/sphinx-build -q -n -W --keep-going docs build/docs

# Every command of the README and the guides again: what they print, and the pictures they draw.
# First RESULTS.md with its pictures, from the stored runs.
figures: $(READY)
	$(BIN)/fwt reproduce retrieval --page-only --quiet
	$(BIN)/python -m tools.guides

# A hundred thousand damaged files through every reader, some 15 minutes; one case again:
# .venv/bin/python -m tests.fuzz --reader NAME --case N
fuzz: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz --cases 100000 --seed 0 --out results/fuzz.json

# A thousand wrong calls of every entry point of every backend, some 10 minutes.
misuse: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m tools.misuse --calls 1000 --seed 0 --out results/misuse.json

# float32 beside float64 over 4,096 time steps: the table in docs/reliability.md, some 3 minutes.
drift: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m tools.drift --out results/drift.json

# Hundreds of training processes killed at every call of a save, stopped, and starved of disk, some
# 15 minutes; one case again: .venv/bin/python -m tools.torture --backend NAME --only N
torture: $(READY)
	$(BIN)/python -m tools.torture --kills 400 --seed 0 --out results/torture.json

# One run on 1, 2 and 4 processes on both backends: the same losses, and the scaling on this machine.
ranks: $(READY)
	$(BIN)/python -m tools.ranks --out results/ranks.json

# The three C++ libraries under AddressSanitizer and UBSan, 10,000 drawn calls of each: minutes.
sanitize: $(READY)
	$(BIN)/python -m tools.sanitize --calls 10000 --seed 0 --out results/sanitize.json

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/basedpyright

check: lint test

clean:
	rm -rf $(VENV) build *.egg-info
