# make demo   build everything in a virtual environment and run the main job (SCENES=folder: on your own scenes)
# make test   the same, and run the tests
# make debug  build with bounds checks, assertions and symbols, in place
# make stress  stress the handoff, and the rings of events, in C, under ThreadSanitizer, AddressSanitizer and UndefinedBehaviorSanitizer (a minute)
# make sanitize  the same, and the tests of engine, envs and drive world with the library built so (about twenty minutes; needs gcc)
# make fuzz   random calls of a VecEnv and of make against a model, EXAMPLES=2000 of them (about ten minutes)
# make protocol  check the model of the handoff (needs spin)
# make chaos  kill a thousand workers and verify ten million rows (about five minutes)
# make bench  all benchmarks, quickly
# make train-demo  train a driver for 19 minutes, evaluate it, draw its curve and a film (docs/images/train_drive.*)
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
SCENES ?= shipped
EXAMPLES ?= 2000
TORCH ?= torch==2.13.0
# Without dependencies: its wheels pin another torch.  The rest is what its trainer imports.
PUFFERLIB ?= pufferlib-core==3.0.23 pyro-ppl pyro-api opt-einsum tqdm rich-argparse
PUFFERLIB_OLDER ?= pufferlib-core==3.0.5
WHEELS = install --quiet --disable-pip-version-check --no-deps --only-binary :all:

.PHONY: demo test debug stress sanitize fuzz protocol chaos bench train-demo clean

demo: $(VENV)/.demo
	$(BIN)/python -m fastvec demo --scenes $(SCENES) --output demo.gif

test: $(VENV)/.test
	$(BIN)/python -m pytest

debug: $(VENV)/.test
	FASTVEC_DEBUG=1 $(BIN)/python setup.py build_ext --inplace --force

stress:
	tests/stress/run.sh 50000 -fsanitize=thread
	tests/stress/run.sh 50000 -fsanitize=address,undefined -fno-sanitize-recover=undefined

sanitize: $(VENV)/.test stress
	tests/sanitize.sh $(BIN)/python address tests/engine tests/fuzz tests/envs tests/drive
	tests/sanitize.sh $(BIN)/python thread tests/engine tests/envs

fuzz: $(VENV)/.test
	FASTVEC_FUZZ=$(EXAMPLES) $(BIN)/python -m pytest tests/fuzz

protocol: $(VENV)/.test
	$(BIN)/python -m pytest tests/protocol

chaos: $(VENV)/.test
	$(BIN)/python tests/chaos/chaos.py

bench: $(VENV)/.test
	for b in handoff syscalls memory loading vs_gymnasium vs_puffer vs_sb3 peers detection oversubscribed rollout drive gpudrive parity device; do $(BIN)/python benchmarks/$$b.py --quick || exit; done

train-demo: $(VENV)/.train
	$(BIN)/python benchmarks/train_drive.py --checkpoint driver.pt

clean:
	rm -rf build $(VENV) *.egg-info
	find fastvec_c -name '*.so' -delete

SOURCES = setup.py pyproject.toml $(shell find fastvec_c -name '*.pyx' -o -name '*.pxd' -o -name '*.h')

# The compiled modules are built in place, so that a change of Python code needs no build.  Each of these installs, and builds, once.
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)" --editable

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip

$(VENV)/.demo: $(SOURCES) | $(VENV)/bin/python
	$(INSTALL) '.[demo]'
	touch $@

$(VENV)/.train: $(SOURCES) | $(VENV)/bin/python
	$(INSTALL) '.[train,demo]'
	touch $@

$(VENV)/.test: $(SOURCES) | $(VENV)/bin/python
	$(INSTALL) '.[test,demo]'
	$(BIN)/python -m pip $(WHEELS) $(PUFFERLIB) || echo "no such wheels for this Python: the tests of PufferLib are skipped"
	$(BIN)/python -m pip $(WHEELS) --target $(VENV)/pufferlib-older $(PUFFERLIB_OLDER) || echo "likewise those of an older one"
	touch $@
