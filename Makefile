# Everything from a Python of 3.11 to 3.14 and its pip: `make demo`, `make test`. Both set up .venv themselves.

VENV   ?= .venv
BIN    := $(VENV)/bin
# folder of the demonstration
DEMO   ?= demo
# where the archive of `make up` is
ARCHIVE    ?= archive
# what `make methods` changes in all recipes of networks, such as "workers=12 compile=true"
SET    ?=
# where `make era5` works, what it fetches the reanalysis from, and which years; docs/era5.md
ERA5          ?= era5
ERA5_STORE    ?= gs://weatherbench2/datasets/era5/1959-2023_01_10-6h-64x32_equiangular_conservative.zarr
ERA5_BESIDE   ?=
ERA5_SINCE    ?= 2015-01-01
ERA5_UNTIL    ?= 2022-12-31
ERA5_TRAINING ?= 2015-2020
ERA5_HELD_OUT ?= 2021
ERA5_TEST     ?= 2022
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3 python; do \
            $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null && { echo $$p; break; }; done)

SHELL         := bash
.SHELLFLAGS   := -eu -o pipefail -c
.DELETE_ON_ERROR:
.PHONY: help setup dev train methods era5 demo up test lint wheel docs bench clean
.DEFAULT_GOAL := help

help:  ## list what can be made
	@grep -hE '^[a-z]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 10

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "dacycle needs Python 3.11 to 3.14; none of python3.11 to python3.14, python3, python is one" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The stamps say which lock the environment was last brought to; a changed lock or pyproject.toml renews it.
define install
	$(PIP) install --requirement $<
	$(PIP) install --no-deps --no-build-isolation --editable .
	touch $@
endef

$(VENV)/runtime.stamp: requirements.lock pyproject.toml | $(BIN)/python
	$(install)

$(VENV)/dev.stamp: requirements-dev.lock pyproject.toml | $(BIN)/python
	$(install)
	touch $(VENV)/runtime.stamp

$(VENV)/train.stamp: requirements-train.lock pyproject.toml | $(BIN)/python
	$(install)
	touch $(VENV)/runtime.stamp $(VENV)/dev.stamp

$(VENV)/docs.stamp: requirements-docs.lock pyproject.toml | $(BIN)/python
	$(install)
	touch $(VENV)/runtime.stamp $(VENV)/dev.stamp

setup: $(VENV)/runtime.stamp  ## .venv with what running needs
dev: $(VENV)/dev.stamp  ## .venv with the tests' tools as well
train: $(VENV)/train.stamp  ## .venv with PyTorch and the nature run's model as well

demo: $(VENV)/runtime.stamp  ## run the demonstration, offline, and write its report
	$(BIN)/dacycle demo $(DEMO)

up: $(VENV)/runtime.stamp  ## Prefect on PostgreSQL, with workers, for EXPERIMENT=FILE and ARCHIVE=FOLDER; Ctrl-C ends it
	@test -n "$(EXPERIMENT)" || { echo "name a live experiment, one without an end: make up EXPERIMENT=live.yaml" >&2; exit 1; }
	@exec $(BIN)/dacycle up $(EXPERIMENT) --archive $(ARCHIVE)

# Everything that the recipes of deploy/recipes make. Each stage leaves a file in runs/.done, so that what is done is not done
# again; each command continues by itself where it was interrupted. A method that does not pass the gate stops make, unless
# it is called with --keep-going. glibc gives memory back after every update and has it zeroed again; kept, training is faster.
estimated := oi 3dvar bias
trained   := convcnp adas fnp vae-var diffusion latent-diffusion adas-adapter fnp-adapter vae-var-adapter adas-mini-2
done      := runs/.done
dacycle   := $(BIN)/dacycle
methods: export MALLOC_MMAP_THRESHOLD_ := 4000000000
methods: export MALLOC_TRIM_THRESHOLD_ := 8000000000
methods: export OMP_NUM_THREADS := 1
methods: $(addprefix $(done)/,$(estimated) olr-tp $(trained))  ## train all packaged methods again from nothing; goes on where it was interrupted
$(done)/nature: | $(VENV)/train.stamp
	mkdir -p $(@D)
	$(dacycle) nature-run nature --years 2010-2021,2023,2024 --workers 2
	touch $@
$(done)/backgrounds: $(done)/nature
	$(dacycle) backgrounds nature backgrounds --years 2010-2019
	touch $@
$(done)/backgrounds-mini-2: $(done)/nature
	$(dacycle) backgrounds nature backgrounds-mini-2 --years 2010,2011 --model mini-2
	touch $@
$(done)/bias: $(done)/backgrounds
$(done)/3dvar: $(done)/oi
$(addprefix $(done)/,$(estimated)): $(done)/%: $(done)/nature
	$(dacycle) train deploy/recipes/$*.yaml
	touch $@
$(done)/olr-tp: $(done)/nature
	$(dacycle) train deploy/recipes/olr-tp-cpu.yaml
	$(dacycle) export runs/olr-tp-cpu --out obs_ingest/weights/olr-tp.onnx
	touch $@
$(addprefix $(done)/train-,$(trained)): $(done)/train-%: $(done)/backgrounds
	$(dacycle) train deploy/recipes/$*-cpu.yaml --out runs/$*-cpu $(addprefix --set ,$(SET))
	touch $@
$(done)/train-adas-adapter: $(done)/train-adas
$(done)/train-fnp-adapter: $(done)/train-fnp
$(done)/train-vae-var-adapter: $(done)/train-vae-var
$(done)/train-adas-mini-2: $(done)/adas $(done)/backgrounds-mini-2
$(addprefix $(done)/,$(trained)): $(done)/%: $(done)/train-%
	$(dacycle) export runs/$*-cpu
	$(dacycle) gate runs/$*-cpu/$*.onnx --data nature --register
	touch $@

# Each stage leaves a file in .done, so that what is done is not done again; each command continues by itself where it was
# interrupted, and adds what it took to costs.csv. Recipes and experiment are written once and may then be changed.
in_era5 := cd $(ERA5) && $(abspath $(BIN))/dacycle
stage    = touch $(ERA5)/.done/$(@F)
era5_data = $(ERA5_STORE) era5 --since $(ERA5_SINCE) --until $(ERA5_UNTIL) $(addprefix --beside ,$(ERA5_BESIDE))
worlds   = $${DACYCLE_HOME:-$$HOME/.local/share/dacycle}/worlds
era5: export FSSPEC_GS ?= {"token": "anon"}
era5: export MALLOC_MMAP_THRESHOLD_ := 4000000000
era5: export MALLOC_TRIM_THRESHOLD_ := 8000000000
era5: export DACYCLE_COSTS := costs.csv
era5: $(ERA5)/.done/report-fnp  ## from nothing to a report of 2022 on ERA5 at 5.625 degrees; goes on where it was interrupted
$(ERA5)/.done/init: | $(VENV)/train.stamp
	mkdir -p $(@D)
	rm -f $(ERA5)/era5*.yaml
	$(if $(filter gs://%,$(ERA5_STORE) $(ERA5_BESIDE)),$(PIP) install gcsfs)
	$(in_era5) init era5 era5.yaml
	$(stage)
$(ERA5)/.done/dataset: $(ERA5)/.done/init
	$(in_era5) dataset $(era5_data) --plan
	$(in_era5) dataset $(era5_data)
	$(stage)
$(ERA5)/.done/world: $(ERA5)/.done/dataset
	$(in_era5) world era5 $(worlds)/era5 --training $(ERA5_TRAINING) --reference era5
	$(stage)
$(ERA5)/.done/mini: $(ERA5)/.done/world
	$(in_era5) train era5-mini.yaml
	$(stage)
$(ERA5)/.done/export: $(ERA5)/.done/mini
	$(in_era5) export runs/era5-mini
	$(stage)
$(ERA5)/.done/oi: $(ERA5)/.done/export
	$(in_era5) train era5-oi.yaml
	$(stage)
$(ERA5)/.done/fetch: $(ERA5)/.done/oi
	$(in_era5) fetch isd --years $(ERA5_TEST) --nearest-to 5.625deg --out observations/isd
	$(in_era5) fetch igra --years $(ERA5_TEST) --all --out observations/igra
	$(in_era5) fetch olr_netcdf --years $(ERA5_TEST) --out observations/olr
	$(stage)
$(ERA5)/.done/ingest: $(ERA5)/.done/fetch
	$(in_era5) ingest isd observations/isd/$(ERA5_TEST) --since $(ERA5_TEST)-01-01T00 --until $(ERA5_TEST)-12-31T18 \
		--out tables/isd
	$(stage)
$(ERA5)/.done/hindcast: $(ERA5)/.done/ingest
	$(in_era5) hindcast era5.yaml
	$(stage)
$(ERA5)/.done/report: $(ERA5)/.done/hindcast
	$(in_era5) report era5-laptop
	$(stage)
# A trained method, beside the optimal interpolation and the free run.
$(ERA5)/.done/backgrounds: $(ERA5)/.done/report
	$(in_era5) backgrounds era5 backgrounds --years $(ERA5_TRAINING) --world era5 --model runs/era5-mini/era5-mini.onnx
	$(stage)
$(ERA5)/.done/fnp: $(ERA5)/.done/backgrounds
	$(in_era5) train era5-fnp.yaml
	$(stage)
$(ERA5)/.done/export-fnp: $(ERA5)/.done/fnp
	$(in_era5) export runs/era5-fnp
	$(stage)
$(ERA5)/.done/gate-fnp: $(ERA5)/.done/export-fnp
	$(in_era5) gate runs/era5-fnp/era5-fnp.onnx --data era5 --years $(ERA5_HELD_OUT) --world era5 \
		--against runs/era5-oi/era5-oi.nc
	$(stage)
$(ERA5)/.done/hindcast-fnp: $(ERA5)/.done/gate-fnp
	$(in_era5) fork era5-laptop era5-laptop-fnp --set assimilator=runs/era5-fnp/era5-fnp.onnx
	$(in_era5) hindcast era5-laptop-fnp.yaml
	$(stage)
$(ERA5)/.done/report-fnp: $(ERA5)/.done/hindcast-fnp
	$(in_era5) report era5-laptop-fnp
	$(in_era5) compare era5-laptop era5-laptop-fnp
	$(stage)

test: $(VENV)/dev.stamp  ## run the tests, a file at a time on each core
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

lint: $(VENV)/dev.stamp  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

wheel: $(VENV)/dev.stamp  ## the wheel, in dist, and the demonstration from it on each supported Python that is here
	$(BIN)/python -m build --no-isolation
	$(BIN)/python -m pytest -m trial tests/test_wheel.py

# an archive for the notebook, made once; `make clean` removes it
build/notebook/report.html: | $(VENV)/docs.stamp
	$(BIN)/dacycle demo build/notebook --days 2

docs: $(VENV)/docs.stamp build/notebook/report.html  ## the documentation as a site, in build/site; a broken link is an error
	$(BIN)/python docs/notebooks/execute.py build/notebook/archive
	$(BIN)/python -m sphinx -q -W --keep-going -c docs . build/site

bench: $(VENV)/runtime.stamp  ## where the time of a hindcast goes, on this machine
	$(BIN)/dacycle simulate deploy/experiments/demo.yaml
	$(BIN)/dacycle bench cycles $(ARGS)

clean:  ## remove .venv and what tools left behind; archives stay
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .coverage .mypy_cache .ruff_cache .hypothesis
