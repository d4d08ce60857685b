# Everything that people type. `make run` and `make test` need Python 3.11 or newer and make, nothing else.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
KEEP ?=
LAB ?= .lab
SOAK_SEED ?=
SOAK_FAULTS ?= 200
SOAK_KILLS ?= 100
SOAK_FUZZ ?= 120
SOAK_AGREEMENT ?= 600

.PHONY: run run-cluster stop test lint format soak lock docs dashboard dashboard-assets man site dist clean
.PHONY: bench-dashboard bench-delta bench-forecast bench-health bench-idle bench-loopback bench-scrape bench-sync bench-trees bench-wan

run: $(VENV)/run.stamp  ## the main job: two nodes, a real tree, twice (KEEP=1 leaves the nodes running)
	$(BIN)/dwcp lab demo --dir $(LAB) $(if $(KEEP),--keep)

run-cluster: $(VENV)/dev.stamp  ## three nodes and three members of etcd: the owner of a workload is killed, another goes on
	scripts/install-test-tools.sh
	$(BIN)/dwcp lab cluster --dir $(LAB)-cluster

stop: $(VENV)/run.stamp  ## ends what `make run KEEP=1` left running
	$(BIN)/dwcp lab down $(LAB)

test: $(VENV)/dev.stamp lint  ## installs what the tests need, checks the code, runs the tests
	scripts/install-test-tools.sh
	$(BIN)/python -m pytest

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

soak: $(VENV)/soak.stamp  ## random faults, many transfers at once, fuzzing; root (SOAK_SEED, SOAK_FAULTS, SOAK_KILLS, SOAK_FUZZ, SOAK_AGREEMENT)
	scripts/install-test-tools.sh
	$(BIN)/python -m tests.soak.fuzz --seconds $(SOAK_FUZZ) $(if $(SOAK_SEED),--seed $(SOAK_SEED))
	$(BIN)/python -m tests.soak.many
	$(BIN)/python -m tests.soak.outage
	unshare --mount $(BIN)/python -m tests.soak.power --cuts $(SOAK_KILLS) $(if $(SOAK_SEED),--seed $(SOAK_SEED))
	$(BIN)/python -m tests.soak.managed --kills $(SOAK_KILLS) $(if $(SOAK_SEED),--seed $(SOAK_SEED))
	$(BIN)/python -m tests.soak.agreement --seconds $(SOAK_AGREEMENT) --seeds 3 $(if $(SOAK_SEED),--seed $(SOAK_SEED))
	$(BIN)/python -m tests.soak.connections
	$(BIN)/python -m tests.soak.sync $(if $(SOAK_SEED),--seed $(SOAK_SEED))
	$(BIN)/python -m tests.soak --faults $(SOAK_FAULTS) $(if $(SOAK_SEED),--seed $(SOAK_SEED))

bench-loopback: $(VENV)/dev.stamp  ## file to file on loopback beside iperf3 and rsync
	scripts/install-test-tools.sh
	$(BIN)/python -m bench.loopback

bench-dashboard: $(VENV)/dev.stamp  ## what open dashboards cost a node
	$(BIN)/python -m bench.dashboard

bench-trees: $(VENV)/dev.stamp  ## 200,000 small files on loopback beside rsync and rclone, first and second time
	scripts/install-test-tools.sh peers
	$(BIN)/python -m bench.trees

bench-health: $(VENV)/dev.stamp  ## how long /health takes while the node moves data at full speed
	scripts/install-test-tools.sh health
	$(BIN)/python -m bench.health

bench-idle: $(VENV)/dev.stamp  ## what a node with 20 peers takes when nothing is to be done
	$(BIN)/python -m bench.idle

bench-scrape: $(VENV)/dev.stamp  ## how long a scrape of a node with 100 peers takes
	$(BIN)/python -m bench.scrape

bench-sync: $(VENV)/dev.stamp  ## updates merged per second on one core, and bytes of rounds
	$(BIN)/python -m bench.sync

bench-wan: $(VENV)/dev.stamp  ## over emulated long links beside the usual tools (root; DWCP_WANLINK where netem is not)
	scripts/install-test-tools.sh peers
	$(BIN)/python -m bench.wan

bench-delta: $(VENV)/dev.stamp  ## deltas of real and adversarial pairs beside the usual tools (DWCP_BENCH_PAIRS)
	scripts/install-test-tools.sh deltas
	$(BIN)/python -m bench.delta

bench-forecast: $(VENV)/dev.stamp  ## forecasts beside the usual ones on measured series (DWCP_TRACES)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation -e '.[bench-forecast]'
	$(BIN)/python -m bench.forecast

dashboard-assets:  ## the page that a node serves at /, from dashboard/src (needs node and npm)
	cd dashboard && npm ci --no-audit --no-fund && npm run build

dashboard: $(VENV)/dev.stamp  ## what Grafana imports, from its code
	$(BIN)/python deployments/grafana/generate.py > deployments/grafana/dwcp-manager.json

dist: $(VENV)/dev.stamp  ## an archive with everything in it, to unpack in /opt
	$(BIN)/python deployments/archive/build.py dist

docs: $(VENV)/dev.stamp  ## the pages that are made from the code
	$(BIN)/python -m dwcp.config.reference > docs/configuration.md
	$(BIN)/python -m dwcp.api.reference > docs/http.md
	$(BIN)/python -m dwcp.metrics.reference > docs/metrics.md

man: $(VENV)/dev.stamp  ## manual pages from the commands, in build/man
	$(BIN)/python -m dwcp.cli.manual build/man

site: $(VENV)/dev.stamp  ## the documentation as a site, in build/site; every warning is an error
	$(BIN)/mkdocs build --clean

lock:  ## pins all dependencies anew (needs uv)
	uv pip compile pyproject.toml requirements/build.in $(LOCK_FLAGS) -o requirements/run.lock
	uv pip compile pyproject.toml requirements/build.in --extra dev --extra rdma --extra prediction --extra plot --extra consensus $(LOCK_FLAGS) -o requirements/dev.lock
	uv pip compile pyproject.toml requirements/build.in --extra dev --extra soak --extra consensus $(LOCK_FLAGS) -o requirements/soak.lock
LOCK_FLAGS := --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header --quiet

clean:
	rm -rf $(VENV) $(LAB) $(LAB)-cluster build dashboard/node_modules dist bench/results .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(VENV)/%.stamp: requirements/%.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@
