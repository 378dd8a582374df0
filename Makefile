# Every target sets up what it needs: a machine with Python 3.11 or later, make and git is enough.
# The first that runs and can make an environment: a name on the path may be a shim with no Python behind it.
SUITABLE := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(firstword $(foreach name,python3.12 python3.11 python3.13 python3,$(shell $(name) -c '$(SUITABLE)' 2>/dev/null && echo $(name))))
VENV ?= .venv
RUN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help quickstart test lint types wheel clean links

help:
	@echo "make quickstart   install, then fine-tune the bundled model on real handwriting"
	@echo "make test         install, then run the tests"
	@echo "make lint types   check style and types"
	@echo "make clean        remove what the other targets made"

quickstart: $(READY)
	$(RUN)/lit-vlm fit --config quickstart

test: $(READY)
	$(RUN)/python -m pytest --numprocesses auto --dist worksteal

lint: $(READY)
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .

types: $(READY)
	$(RUN)/mypy

wheel: $(READY)
	$(RUN)/python -m build --wheel --no-isolation

# Tools that copy a tree may drop symbolic links, or leave a text file in their place; the package needs these two.
links:
	@[ -d lit_vlm/callbacks ] || ln -sfn ../callbacks lit_vlm/callbacks
	@[ -d lit_vlm/recipes ] || ln -sfn ../recipes lit_vlm/recipes

$(READY): pyproject.toml | links
	@[ -n "$(PYTHON)" ] || { echo "lit-vlm needs Python 3.11 or later with venv; name one with make PYTHON=..."; exit 2; }
	@echo "installing into $(VENV): minutes the first time, as torch is large"
	@[ -x $(RUN)/python ] || $(PYTHON) -m venv $(VENV)
	@$(RUN)/python -m pip --version >/dev/null 2>&1 || $(RUN)/python -m ensurepip  # environments made by uv lack it
	@$(RUN)/python -m pip install --quiet uv && $(RUN)/uv pip install --quiet --python $(RUN)/python --editable '.[dev]' || \
	{ echo "uv cannot install here; pip does its work, more slowly"; $(RUN)/python -m pip install --quiet --editable '.[dev]'; }
	@touch $(READY)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
