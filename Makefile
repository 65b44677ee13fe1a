# Two commands are all there is to know: `make demo` and `make test`. Both set up what they need in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
JOBS ?= 2

# Where it is set, as in many container images, every process compiles nerfstudio and torch anew: fifteen seconds each.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install demo test lint docs wheel prior studio clean

install: $(READY)

demo: $(READY)
	$(BIN)/pds demo $(ARGS)

# Without reordering: files of one long test would come last, and one job alone would run them.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder \
		--jaxtyping-packages=pds_nerfstudio.objectives,pds_nerfstudio.priors,pds_nerfstudio.scenes,pds_nerfstudio.vector,pds_nerfstudio.images,pds_nerfstudio.toybox.geometry,pds_nerfstudio.toybox.render,pds_nerfstudio.studio.surfaces,pds_nerfstudio.studio.textures,pds_nerfstudio.studio.atlas,pds_nerfstudio.studio.render,beartype.beartype \
		$(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports
	$(BIN)/codespell

# The site, in outputs/site: open index.html, no server is needed.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -W ignore -m mkdocs build --strict

# Builds it, installs it into an environment outside of the checkout, and runs `pds demo` there.
wheel: $(READY)
	.ci/wheel

prior: $(READY)
	$(BIN)/python data_scripts/train_toybox_prior.py --install

# Renders the captures of docs/studio.md, half an hour on one free core; what is there already is kept. Then packs them.
studio: $(READY)
	$(BIN)/python data_scripts/render_studio.py $(ARGS)
	$(BIN)/python data_scripts/render_studio.py --install

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 10) <= v <= (3, 12) or sys.exit(f"Python 3.10, 3.11 or 3.12 is needed and $(PYTHON) is {v[0]}.{v[1]}: run make PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "Python has no venv module: install it (Debian and Ubuntu: apt install python3-venv)."; exit 1; }
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) outputs
