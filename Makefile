# make demo    sets up everything, makes data, trains, evaluates, shows what the model sees
# make test    sets up everything and runs the fast tests; make test-slow the slow ones, and prints
#              their figures
# make lint    ruff and mypy
# make bench   every script under benchmarks/

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
BIN := .venv/bin
INSTALLED := .venv/.installed
DEMO := runs/demo

export TF_CPP_MIN_LOG_LEVEL ?= 2
unexport PYTHONDONTWRITEBYTECODE  # modules are compiled when they are first imported, and kept

.PHONY: venv demo test test-slow browser lint bench

venv: $(INSTALLED)

$(INSTALLED): requirements-lock.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed: apt-get install python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || \
		{ echo "$$($(PYTHON) --version) found, 3.11 or 3.12 is needed: make PYTHON=python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
		{ echo "Python's venv module is incomplete: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-deps --no-compile --requirement requirements-lock.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	$(BIN)/python -m pip check
	@touch $@

test: venv
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: venv browser
	$(BIN)/python -m pip install --quiet --constraint requirements-lock.txt --editable '.[onnx,ray,stablehlo]'
	$(BIN)/python -m pytest -m slow -rP

# Pages are tested in it.
browser:
	@{ command -v chromium && command -v chromedriver; } >/dev/null || \
		{ apt-get update --quiet && apt-get install --yes --quiet chromium chromium-driver; } || \
		{ echo "The tests of pages need chromium and chromedriver: install them" >&2; exit 1; }

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy official_maskrcnn train.py

# The main job, as the public commands that it consists of.
demo: venv
	$(BIN)/python -m official_maskrcnn data synthetic --output $(DEMO)/train --images 1000 --seed 1
	$(BIN)/python -m official_maskrcnn data synthetic --output $(DEMO)/val --images 100 --seed 2
	$(BIN)/python train.py --experiment=deep_mask_head_rcnn_resnetfpn_coco --mode=train_and_eval \
		--model_dir=$(DEMO)/model --config_file=configs/demo.yaml
	@echo "What the model sees: $(DEMO)/model/predictions/"

bench: venv
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python "$$script" || exit; done
