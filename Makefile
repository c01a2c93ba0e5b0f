# `make help` lists the targets. Everything is made inside the checkout: .venv, .venv-device, build, dist.

# Another interpreter than the first Python 3.11 to 3.13:            make demo PYTHON=/usr/bin/python3.12
PYTHON ?=
# PyTorch's build for CPUs, without gigabytes of CUDA:               make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
# A folder with Omniglot's archives, to download nothing:            make reproduce-omniglot DATA_ROOT=~/omniglot
DATA_ROOT ?=
DATA_ROOT_OPTION = $(if $(DATA_ROOT),--data-root $(DATA_ROOT))
# Test processes:
JOBS ?= 2
# Fuzz targets and options, see .venv/bin/python -m tests.fuzz --help:   make fuzz FUZZ='settings --seed 7'
FUZZ ?=
# Options of scripts/first_boot.py:                                make first-boot FIRST_BOOT='--config pi-01.toml'
FIRST_BOOT ?=
# Options of scripts/release.py:                                   make release RELEASE='--allow-dirty --arch arm64'
RELEASE ?=

export PYTHON TORCH_INDEX

LOCK = .venv/bin/uv pip compile --quiet

.DEFAULT_GOAL := help
.PHONY: help setup setup-device demo run test test-device fuzz test-system screenshots generated lint photographs models scenes reproduce reproduce-omniglot model-glyphs model-objects model-objects-small splits bench-daemon bench-integrations results wheel deb first-boot container release docs docs-serve lock update clean distclean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-20s %s\n", $$1, $$2 }' Makefile

setup: setup-device  ## make .venv (workstation) and .venv-device from the locks
	@sh scripts/environment.sh .venv requirements/host.lock
	@.venv/bin/python -c 'import importlib.metadata as m; m.version("edge-siamese")' 2>/dev/null \
		|| .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .

setup-device:  ## make .venv-device, what a device has and its tests need: 260 MB, no torch
	@sh scripts/environment.sh .venv-device requirements/device.lock --device

demo: setup  ## train, quantize, export, then run the daemon on a rendered scene: five minutes; writes build/demo/report.html
	@.venv/bin/python -m export demo --out build/demo 2>&1

run: setup  ## run the daemon on the demo's scene until Ctrl-C
	@grep -qs '^\[dashboard\]' build/demo/daemon/run.toml || $(MAKE) --no-print-directory demo
	@.venv/bin/python -m edge_siamese run --config build/demo/daemon/run.toml

test: setup lint  ## run lint, types and all tests except the system tests
	@OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n $(JOBS) --dist loadfile

test-device: setup-device  ## run the tests of edge_siamese as on a device, without torch
	@OMP_NUM_THREADS=1 .venv-device/bin/python -m pytest -n $(JOBS) --dist loadfile tests/edge_siamese

fuzz: setup  ## run the fuzz targets with all their inputs: an hour; FUZZ='settings --count 1000 --seed 7' chooses
	@OMP_NUM_THREADS=1 .venv/bin/python -m tests.fuzz $(FUZZ)

test-system: setup  ## run the tests in booted systems: systemd, arm64, a virtual machine (needs Debian and root; installs packages)
	@sh scripts/system_packages.sh
	@EDGE_SIAMESE_SYSTEM_TESTS=1 OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n $(JOBS) --dist loadfile tests/system

screenshots: setup  ## update the dashboard's screenshots in README and docs (needs Debian and root)
	@sh scripts/system_packages.sh
	@EDGE_SIAMESE_SYSTEM_TESTS=1 EDGE_SIAMESE_SCREENSHOTS=1 .venv/bin/python -m pytest tests/system/test_dashboard_pictures.py

generated: setup  ## update the settings reference, the shell completions and the manual page after a change of their sources
	@.venv/bin/python scripts/settings_reference.py
	@.venv/bin/python scripts/completions.py
	@.venv/bin/python scripts/manual_page.py

lint: setup  ## run ruff, mypy and the import rules
	@.venv/bin/python -m ruff check --quiet .
	@.venv/bin/python -m ruff format --check --quiet .
	@.venv/bin/python -m mypy
	@.venv/bin/lint-imports --no-logo --cache-dir .cache/import-linter

reproduce-omniglot: setup  ## reproduce the README's table: at most an hour on two cores; writes build/omniglot/report.html
	@.venv/bin/python -m export pipeline --recipe omniglot $(DATA_ROOT_OPTION)

photographs: setup  ## download unrelated photographs, for evaluation and the anti-forgetting loss (uses apt-get)
	@.venv/bin/python scripts/fetch_photographs.py --out build/photographs

models: setup  ## download 3-D models of household objects (uses apt-get)
	@.venv/bin/python scripts/fetch_models.py --out build/models

scenes: photographs models  ## measure what the daemon recognizes in video of turning objects, and a baseline: 40 minutes
	@.venv/bin/python -m export render build/models/BlendSwap-CC-0.sh3f --out build/turntable/evaluation
	@.venv/bin/python -m export scenes objects --focus center foreground --turntable build/turntable/evaluation \
		--baseline build/photographs/anything/impostors --backgrounds drawn build/photographs/anything/strangers/photographs \
		--registered 5 20 --objects 40 --strangers 30 --out benchmarks/objects/scenes.json

reproduce: photographs  ## measure the shipped bundles again: photographs need EDGE_SIAMESE_DATA, a folder with grocery/
	@.venv/bin/python -m export train --encoder efficientnet-lite0 --steps 0 --out build/imagenet/train
	@.venv/bin/python -m export reproduce --also faces=folder:build/photographs/faces --also things=folder:build/photographs/things

model-glyphs: setup  ## make the shipped bundle for handwriting, from the kept weights: 15 minutes
	@.venv/bin/python -m export pipeline --recipe glyphs $(DATA_ROOT_OPTION)
	@.venv/bin/python scripts/draw_paper.py --out build/paper
	@.venv/bin/python -m export impostors build/glyphs --store build/paper/impostors
	@.venv/bin/python -m export ship build/glyphs --as glyphs

model-objects: photographs models  ## make the shipped bundle for objects: 2.5 hours; needs EDGE_SIAMESE_DATA, a folder with grocery/
	@.venv/bin/python -m export render build/models/BlendSwap-CC-BY.sh3f build/models/KatorLegaz.sh3f \
		build/models/Reallusion.sh3f build/models/Scopia.sh3f --views 8 --side 176 --out build/turntable/training \
		--credits docs/credits.md
	@.venv/bin/python -m export pipeline --recipe objects-first
	@.venv/bin/python -m export pipeline --recipe objects
	@.venv/bin/python -m export impostors build/objects --store build/photographs/anything/impostors
	@.venv/bin/python -m export ship build/objects --as objects

model-objects-small: photographs  ## train a smaller network, on 95x95 images, into build/objects-small: 20 minutes
	@.venv/bin/python -m export pipeline --recipe objects-small

splits: setup  ## train glyphnet on other published splits of Omniglot, into build/omniglot-*: an hour on one core
	@for name in characters five-1 five-2; do \
		.venv/bin/python -m export train --recipe omniglot-$$name $(DATA_ROOT_OPTION) && \
		.venv/bin/python -m export evaluate build/omniglot-$$name --runtime torch --episodes 10000 $(DATA_ROOT_OPTION) \
			--out build/omniglot-$$name/evaluation.json || exit 1; \
	done

bench-daemon: setup  ## measure the daemon, and compare int8 with fp32 in all runtimes: eight minutes, writes benchmarks/daemon
	@.venv/bin/python -m benchmarks.daemon.measure
	@.venv/bin/python -m export benchmark objects --no-accuracy

bench-integrations: setup  ## measure the daemon with dashboard, MQTT and metrics on and off; writes benchmarks/integrations
	@.venv/bin/python -m benchmarks.integrations.measure

results: setup  ## write the measured figures into README.md, docs/results.md and docs/results
	@.venv/bin/python -m benchmarks.pages

docs: setup  ## build the documentation site into build/site, without a network
	@NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs build --quiet --strict
	@echo build/site/index.html

docs-serve: setup  ## serve the documentation site at http://127.0.0.1:8000, and rebuild it when a page changes
	@NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs serve

wheel: setup  ## build the device's wheel into dist
	@.venv/bin/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist .
	@ls dist/*.whl

deb: setup  ## build the Debian package into dist: make deb ARCH=arm64
	@sh scripts/deb.sh $(if $(ARCH),--arch $(ARCH))

first-boot: setup  ## pack the folder that installs on a Raspberry Pi's first start into dist: make first-boot FIRST_BOOT='--packages trixie'
	@.venv/bin/python scripts/first_boot.py $(FIRST_BOOT)

container: setup  ## build the container image, with podman or docker: make container BASE=docker.io/library/python@sha256:…
	@sh scripts/container.sh $(if $(BASE),--base $(BASE))

release: setup  ## build a release into build/release: packages, bills of materials, checksums, notes; RELEASE=--allow-dirty for a trial
	@.venv/bin/python scripts/release.py $(RELEASE)

lock: .venv/bin/uv  ## write requirements/*.lock from requirements/*.in; keep the versions that still fit
	@$(LOCK) requirements/host.in --output-file requirements/host.lock
	@$(LOCK) requirements/device.in --output-file requirements/device.lock
	@.venv/bin/python scripts/device_pins.py

.venv/bin/uv:
	@$(MAKE) --no-print-directory setup

update: LOCK += --upgrade
update: lock  ## write requirements/*.lock with the newest versions that requirements/*.in allow

clean:  ## remove build results; keep the environments
	rm -rf --one-file-system build dist .cache  # spares what a killed build of a system may have left mounted

distclean: clean  ## remove the environments too
	rm -rf .venv .venv-device
