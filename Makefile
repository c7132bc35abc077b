# `make` alone prints what there is. Every target does the set-up it needs.

# Which released packages to stand on: onedl (maintained, default) or openmmlab.
STACK ?= onedl
ifeq ($(STACK),onedl)
VENV := .venv
else ifeq ($(STACK),openmmlab)
VENV := .venv-openmmlab
else
$(error STACK=$(STACK) is not known: say STACK=onedl (default) or STACK=openmmlab)
endif
PEERS := .venv-peers

# `PYTHON=python3.12 make install` picks an interpreter, 3.10 to 3.13.
PYTHON_GIVEN := $(PYTHON)
PYTHON ?= $(or $(shell command -v python3.11),$(shell command -v python3),python3)

INSTALL := requirements/install.sh
INPUTS := $(INSTALL) setup.py $(wildcard requirements/*.txt)
# they need the peers' packages
WITHOUT_PEERS := --ignore=tests/test_parity --ignore=tests/test_pretrain
# some of them need huggingface_hub, which the peers bring along
OF_HUGGING_FACE := tests/test_checkpoints/test_download.py
# they open a browser
UI_TESTS := tests/test_cli/test_ui.py tests/test_cli/test_report.py tests/test_site.py
WITHOUT_UI := $(addprefix --ignore=,$(UI_TESTS))

.PHONY: help install peers demo demo-seg demo-video demo-cls demo-simmim test parity bench reproduce test-slow test-ui lint docs clean interpreter interpreter-peers

help:
	@echo 'make install     set up $(VENV) (compiles mmcv: about 4 minutes the first time)'
	@echo 'make peers       set up $(PEERS): timm, transformers, ... to compare with'
	@echo 'make demo        draw a data set, train a small detector on it, evaluate it'
	@echo 'make demo-seg    the same with a segmentor'
	@echo 'make demo-video  the same with a video classifier, and a control'
	@echo 'make demo-cls    the same with an image classifier'
	@echo 'make demo-simmim pre-train a backbone on pictures alone, and a detector from it'
	@echo 'make test        lint, parity, and every test that is not marked slow'
	@echo 'make test-slow   the tests marked slow'
	@echo 'make test-ui     the pages in a real browser (Debian'\''s chromium)'
	@echo 'make bench       time and memory beside other implementations (about two hours)'
	@echo 'make reproduce   the paper'\''s claims in miniature, each beside a control (20 minutes)'
	@echo 'make lint        ruff and mypy'
	@echo 'make docs        the documentation, in build/docs (tutorials are run: minutes the first time)'
	@echo 'make clean       remove build products and caches; environments and work_dirs stay'
	@echo
	@echo 'STACK=openmmlab  OpenMMLab'\''s last releases instead of the maintained forks'
	@echo 'PYTHON=python3.12  the interpreter of a new environment'

install: $(VENV)/.installed
peers: $(PEERS)/.installed

# The stamps: a second run is instant, a change of the pins is taken up.
$(VENV)/.installed: $(INPUTS) | interpreter
	@bash $(INSTALL) $(STACK) $(VENV) $(PYTHON)
	@touch $@

$(PEERS)/.installed: $(INPUTS) | interpreter-peers
	@bash $(INSTALL) peers $(PEERS) $(PYTHON)
	@touch $@

# An interpreter that was asked for by name must be the one in the environment.
interpreter:
	@$(if $(PYTHON_GIVEN),bash $(INSTALL) --same-python $(VENV) $(PYTHON))

interpreter-peers:
	@$(if $(PYTHON_GIVEN),bash $(INSTALL) --same-python $(PEERS) $(PYTHON))

DEMO := configs/detection/mask-rcnn_swinv2-nano_demo.py
demo: WORK := work_dirs/demo
demo: install
	@echo '== 1 of 4: draw 460 pictures (seconds)'
	$(VENV)/bin/python tools/dataset_converters/make_shapes.py data/shapes-demo --size 80 --large
	@echo '== 2 of 4: train (2 to 5 minutes on two cores; lines with eta tell)'
	$(VENV)/bin/python tools/train.py $(DEMO) --work-dir $(WORK)
	@echo '== 3 of 4: evaluate on 60 other pictures (half a minute)'
	$(VENV)/bin/python tools/test.py $(DEMO) $$(cat $(WORK)/last_checkpoint) --work-dir $(WORK)
	@echo '== 4 of 4: paint what it finds (half a minute)'
	$(VENV)/bin/python -m mmswinv2 predict $(DEMO) $$(cat $(WORK)/last_checkpoint) \
	    data/shapes-demo/val2017 --out-dir $(WORK)/pictures --score 0.7
	@$(VENV)/bin/python tools/misc/print_scores.py $(WORK) --pictures $(CURDIR)/$(WORK)/pictures/vis
	@echo "next, on a picture of yours: $(VENV)/bin/mmswinv2 predict $(DEMO) \\"
	@echo "    $$(cat $(WORK)/last_checkpoint) PICTURE --score 0.7"

DEMO_SEG := configs/segmentation/swinv2-nano_upernet_shapes.py
demo-seg: WORK := work_dirs/demo-seg
demo-seg: install
	@echo '== 1 of 4: draw 860 pictures (seconds)'
	$(VENV)/bin/python tools/dataset_converters/make_shapes.py data/shapes-large \
	    --train 800 --size 96 --large
	@echo '== 2 of 4: train (minutes; lines with eta tell)'
	$(VENV)/bin/python tools/train.py $(DEMO_SEG) --work-dir $(WORK)
	@echo '== 3 of 4: evaluate on 60 other pictures'
	$(VENV)/bin/python tools/test.py $(DEMO_SEG) $$(cat $(WORK)/last_checkpoint) --work-dir $(WORK)
	@echo '== 4 of 4: paint what it finds'
	$(VENV)/bin/python -m mmswinv2 predict $(DEMO_SEG) $$(cat $(WORK)/last_checkpoint) \
	    data/shapes-large/val2017 --out-dir $(WORK)/pictures
	@$(VENV)/bin/python tools/misc/print_scores.py $(WORK) --pictures $(CURDIR)/$(WORK)/pictures/vis

DEMO_VIDEO := configs/video/video-swinv2-nano_motion
demo-video: WORK := work_dirs/demo-video
demo-video: install
	$(VENV)/bin/python tools/dataset_converters/make_motion.py data/motion
	$(VENV)/bin/python tools/train.py $(DEMO_VIDEO).py --work-dir $(WORK)
	$(VENV)/bin/python tools/test.py $(DEMO_VIDEO).py $$(cat $(WORK)/last_checkpoint) \
	    --work-dir $(WORK) --dump $(WORK)/in_order.pkl
	$(VENV)/bin/python tools/test.py $(DEMO_VIDEO)-shuffled.py $$(cat $(WORK)/last_checkpoint) \
	    --work-dir $(WORK) --dump $(WORK)/shuffled.pkl
	@$(VENV)/bin/python tools/misc/motion_scores.py \
	    'frames in order=$(WORK)/in_order.pkl' 'frames shuffled=$(WORK)/shuffled.pkl'

# mmpretrain lives in the peers' environment.
DEMO_CLS := configs/classification/swinv2-nano_shapes.py
demo-cls: WORK := work_dirs/demo-cls
demo-cls: peers
	$(PEERS)/bin/python tools/dataset_converters/make_shapes.py data/shapes
	$(PEERS)/bin/python tools/dataset_converters/coco_to_folders.py data/shapes data/shapes-cut
	$(PEERS)/bin/python tools/train.py $(DEMO_CLS) --work-dir $(WORK)
	$(PEERS)/bin/python tools/test.py $(DEMO_CLS) $$(cat $(WORK)/last_checkpoint) --work-dir $(WORK)
	@$(PEERS)/bin/python tools/misc/print_scores.py $(WORK)

# A detector from SimMIM's weights and from none, for the same few steps.
DETECTOR := configs/detection/mask-rcnn_swinv2-nano_shapes.py
DEMO_SIMMIM := configs/pretraining/simmim_swinv2-nano_shapes.py
STEPS ?= 325
demo-simmim: WORK := work_dirs/demo-simmim
demo-simmim: install peers
	$(VENV)/bin/python tools/dataset_converters/make_shapes.py data/shapes
	$(PEERS)/bin/python tools/train.py $(DEMO_SIMMIM) --work-dir $(WORK)
	$(PEERS)/bin/python tools/misc/simmim_demo.py $(DEMO_SIMMIM) $$(cat $(WORK)/last_checkpoint) \
	    data/shapes/val2017 --out $(WORK)/pictures
	for start in scratch simmim; do \
	    $(VENV)/bin/python tools/train.py $(DETECTOR) --work-dir $(WORK)/from-$$start --cfg-options \
	        train_cfg.max_iters=$(STEPS) train_cfg.val_interval=99999 param_scheduler.1.end=$(STEPS) \
	        $$([ $$start = scratch ] || echo model.backbone.init_cfg.type=Pretrained \
	            model.backbone.init_cfg.checkpoint=$$(cat $(WORK)/last_checkpoint)) && \
	    $(VENV)/bin/python tools/test.py $(DETECTOR) $(WORK)/from-$$start/iter_$(STEPS).pth \
	        --work-dir $(WORK)/from-$$start || exit 1; \
	done
	@for start in scratch simmim; do \
	    echo "from $$start: $$($(VENV)/bin/python tools/misc/print_scores.py $(WORK)/from-$$start)"; \
	done

# TESTS='tests/test_models -k video' for less; JOBS tests at a time, each on one thread
TESTS ?= tests
# Parity needs one environment, whatever the stack, and is no part of a part of the tests.
ifeq ($(STACK) $(TESTS),onedl tests)
test: parity
endif

JOBS ?= 2
PYTEST := -m pytest -n $(JOBS)
test test-slow parity: export OMP_NUM_THREADS = 1
# images of containers switch bytecode off; then every tool in the tests compiles the package anew
test test-slow parity docs: export PYTHONDONTWRITEBYTECODE =
test: install
	$(VENV)/bin/python $(PYTEST) $(TESTS) -m 'not slow' $(WITHOUT_PEERS)

parity: peers
	$(PEERS)/bin/python $(PYTEST) tests/test_parity tests/test_pretrain $(OF_HUGGING_FACE)

test-slow: install
	$(VENV)/bin/python $(PYTEST) $(TESTS) -m slow $(WITHOUT_PEERS)

test-ui: export OMP_NUM_THREADS = 1
test-ui: install
	$(VENV)/bin/python -m pip install -q -c requirements/constraints.txt \
	    -r requirements/ui.txt -r requirements/browser.txt
	$(VENV)/bin/python -m pytest $(UI_TESTS)

# BENCH='--workloads 512-t --runs 3' for less; python -m benchmarks --help
bench: install peers
	$(VENV)/bin/python -W ignore -m benchmarks --peers-python $(PEERS)/bin/python $(BENCH)

# REPRODUCE='--experiment window --seeds 0' for less; python -m benchmarks.reproduce --help
reproduce: install
	$(VENV)/bin/python -W ignore -m benchmarks.reproduce $(REPRODUCE)

lint: install
	$(VENV)/bin/python -m pytest -q tests/test_quality.py

# Warnings are errors. Tutorials that have not changed are not run again (build/docs-cache).
docs: $(VENV)/.docs peers
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m sphinx -q -W --keep-going -b html $(SPHINX) docs build/docs
	@echo 'open build/docs/index.html'

$(VENV)/.docs: requirements/docs.txt $(VENV)/.installed
	$(VENV)/bin/python -m pip install -q --disable-pip-version-check \
	    -c requirements/constraints.txt -r requirements/docs.txt
	@touch $@

clean:
	rm -rf build dist *.egg-info mmswinv2/.mim .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +
