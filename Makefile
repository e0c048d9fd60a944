# The tasks of a checkout. Each first makes the environment that it needs. Needs only make and Python.

PYTHON ?= python3
ARGS ?=
DATASETS = 2.21.0 3.6.0 4.0.0 4.8.5 5.2.0
NEWEST = 5.2.0
OLDER = $(filter-out $(NEWEST),$(DATASETS))
CONSTRAINTS = constraints/datasets-$(NEWEST).txt
PIP_INSTALL = -m pip install --quiet --disable-pip-version-check
ON_ALL_VERSIONS = tests/test_loader.py tests/reading/test_stream.py tests/publishing/test_push.py tests/publishing/test_published.py
READ_BACK = .venvs/read-back

# Nothing that a task loads lands in the user's caches, or comes from them.
CACHES = HF_HOME="$(CURDIR)/.venv/cache/huggingface" PICO_BANANA_CACHE="$(CURDIR)/.venv/cache/pico_banana"
unexport HF_DATASETS_CACHE HF_HUB_CACHE HF_MODULES_CACHE HF_TOKEN PYTHONHOME PYTHONPATH

.PHONY: help demo test check soak bench lint types versions constraints clean

help:  ## list these tasks
	@echo 'make TASK [PYTHON=python3.11]; tasks:'
	@sed -n 's/^\([a-z]*\):[^#]*## /\1#/p' Makefile | awk -F'#' '{ printf "  %-12s %s\n", $$1, $$2 }'

demo: .venv/runtime.stamp  ## convert the embedded sample release into demo-output, no network needed
	$(CACHES) .venv/bin/pico-banana demo --output demo-output

test: .venv/dev.stamp  ## the tests but for those that take long; ARGS="-k word" adds arguments of pytest
	$(CACHES) .venv/bin/python -m pytest -n 2 -m "not long and not soak" $(ARGS)

check: .venv/dev.stamp  ## all tests, of the soak its short form, with the ten slowest
	$(CACHES) .venv/bin/python -m pytest -n 2 --durations=10 $(ARGS)

soak: .venv/torch.stamp  ## the long form of the tests that take minutes, with their figures; those with torch, gigabytes
	$(CACHES) SOAK=long .venv/bin/python -m pytest -m soak --capture=no $(ARGS)
	$(CACHES) .venv/bin/python -m pytest -k torch tests/reading/test_stream.py tests/test_example_scripts.py

bench: .venv/dev.stamp .venvs/img2dataset/peer.stamp  ## the benchmarks, beside their peers, into benchmarks/README.md; some 15 minutes
	$(CACHES) .venv/bin/python -m benchmarks $(ARGS)

lint: .venv/dev.stamp  ## ruff's rules and format
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

types: .venv/dev.stamp  ## mypy, strict
	.venv/bin/mypy pico_banana_400k.py
	.venv/bin/mypy -p pico_banana

# Two at a time: each holds a table of the output and a decoded picture or two.
versions: .venv/dev.stamp  ## on each version in constraints/: read an output with plain datasets, test the loader
	@rm -rf $(READ_BACK)
	$(CACHES) .venv/bin/python -m tests.make_read_back $(READ_BACK)
	@$(MAKE) --no-print-directory --keep-going -j2 $(DATASETS:%=read-back-%) $(OLDER:%=loader-%)

read-back-%: .venvs/datasets-%/reading.stamp
	@.venvs/datasets-$*/bin/python -I tests/read_back.py $(READ_BACK)/out $(READ_BACK)/expected.json

# The newest version's are part of `make check`.
loader-%: .venvs/loader-%/testing.stamp
	@$(CACHES) .venvs/loader-$*/bin/python -m pytest -q -p no:cacheprovider $(ON_ALL_VERSIONS)

constraints: .venvs/uv/uv.stamp  ## choose the newest versions that fit together, and write constraints/
	@set -e; for version in $(DATASETS); do \
	  extra=; if [ $$version = $(NEWEST) ]; then extra='--extra dev'; fi; \
	  printf '%s\n' datasets==$$version aiohttp hypothesis pillow psutil pyarrow pytest requests | \
	  .venvs/uv/bin/uv pip compile --quiet --upgrade --universal --python-version 3.10 $$extra \
	    --no-annotate --custom-compile-command 'make constraints' \
	    --output-file constraints/datasets-$$version.txt pyproject.toml - > /dev/null; \
	done

clean:  ## remove the environments, caches and demo-output
	rm -rf .venv .venvs demo-output build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp says that a folder's contents are complete and belong to the files that the stamp is newer than.

.venv/python.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
	  echo "PYTHON must be Python 3.10 or newer, but got '$(PYTHON)': $$($(PYTHON) --version 2>&1 | tail -1)"; \
	  echo "Name another one: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; } >&2
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  package=$$($(PYTHON) -c 'import sys; print("python3.%d-venv" % sys.version_info[1])'); \
	  echo "'$(PYTHON)' cannot make a virtual environment: it comes without ensurepip."; \
	  echo "On Debian and Ubuntu: apt-get install $$package (python3-venv for the system's python3)"; \
	  exit 1; } >&2
	@echo 'Making .venv'
	@$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }
	@touch $@

.venv/runtime.stamp: .venv/python.stamp pyproject.toml $(CONSTRAINTS)
	@echo 'Installing what the package needs'
	@.venv/bin/python $(PIP_INSTALL) --editable . --constraint $(CONSTRAINTS)
	@touch $@

# After the runtime's, never beside it: two pips in one environment would break it.
.venv/dev.stamp: .venv/runtime.stamp
	@echo 'Installing what the tests need'
	@.venv/bin/python $(PIP_INSTALL) --editable '.[dev]' --constraint $(CONSTRAINTS)
	@touch $@

.venv/torch.stamp: .venv/dev.stamp
	@echo 'Installing torch'
	@.venv/bin/python $(PIP_INSTALL) --editable '.[dev,torch]' --constraint $(CONSTRAINTS)
	@touch $@

# No project in these: they read an output as a user of plain datasets does.
.venvs/datasets-%/reading.stamp: constraints/datasets-%.txt .venv/python.stamp
	@echo 'Making .venvs/datasets-$*'
	@.venv/bin/python -m venv --clear .venvs/datasets-$*
	@.venvs/datasets-$*/bin/python $(PIP_INSTALL) datasets pillow pyarrow aiohttp requests --constraint $<
	@touch $@

.venvs/loader-%/testing.stamp: constraints/datasets-%.txt pyproject.toml .venv/python.stamp
	@echo 'Making .venvs/loader-$*'
	@.venv/bin/python -m venv --clear .venvs/loader-$*
	@.venvs/loader-$*/bin/python $(PIP_INSTALL) --editable . hypothesis psutil pytest --constraint $<
	@touch $@

# With the versions that it asks for itself.
.venvs/img2dataset/peer.stamp: .venv/python.stamp
	@echo 'Making .venvs/img2dataset'
	@.venv/bin/python -m venv --clear .venvs/img2dataset
	@.venvs/img2dataset/bin/python $(PIP_INSTALL) img2dataset
	@touch $@

.venvs/uv/uv.stamp: .venv/python.stamp
	@.venv/bin/python -m venv --clear .venvs/uv
	@.venvs/uv/bin/python $(PIP_INSTALL) uv
	@touch $@

# else make deletes it as an intermediate file
.PRECIOUS: .venvs/datasets-%/reading.stamp .venvs/loader-%/testing.stamp
