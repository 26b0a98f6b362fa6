# Everything runs in .venv, which `make` builds where it is missing or older than pyproject.toml.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo docs test test-quick check bench clean

demo: $(READY)
	$(BIN)/distillctl train

# two workers of one thread each: threads that wait for each other on shared cores cost more than they bring
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# the inner loop, in two minutes on two cores: every unit test and a tiny run, without the files that start processes or train again and again
test-quick: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_layers.py

# what is written by the program itself
docs: $(READY)
	$(BIN)/python -m distillctl.manual > docs/keys.md

# the last three read real images: --images, or the archive that CONTRIBUTING.md names
bench: $(READY)
	$(BIN)/python benchmarks/training_loop.py
	$(BIN)/python benchmarks/losses.py
	$(BIN)/python benchmarks/augmentation.py
	$(BIN)/python benchmarks/cache_growth.py
	$(BIN)/python benchmarks/cached_teacher.py
	$(BIN)/python benchmarks/sweep.py
	$(BIN)/python benchmarks/stream.py
	$(BIN)/python benchmarks/usual_accuracy.py
	$(BIN)/python benchmarks/cache_accuracy.py
	$(BIN)/python benchmarks/export.py
	$(BIN)/python benchmarks/lifelong.py
	$(BIN)/python benchmarks/text.py

$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $(READY)

clean:
	rm -rf .venv build dist .coverage* .mypy_cache .pytest_cache .ruff_cache .hypothesis
