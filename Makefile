# Every target makes what it needs: a virtual environment in .venv, and for tests and benchmarks the Debian packages
# that serve as peers. ARGS="…" goes to the program that the target runs; PYTHON=… chooses the interpreter.

.DEFAULT_GOAL := help
.ONESHELL:
SHELL := /bin/sh
.SHELLFLAGS := -euc
.PHONY: help demo check test bench soak peers

PATH := $(PATH):/usr/sbin:/sbin
PY := .venv/bin/python
STAMP := .venv/made-for

# An environment that was moved, copied or half made, or whose interpreter is gone, is made afresh.
ifneq ($(shell .venv/bin/python -c 'print(open(".venv/made-for").read(), end="")' 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif

help:  ## what can be made
	@sed -n 's/^\([a-z]*\):.*##/  make \1\t/p' $(MAKEFILE_LIST)

demo: $(STAMP)  ## the whole system on this machine, on real data, with outages
	@.venv/bin/tidegate demo $(ARGS)

check: $(STAMP)  ## linter, types, house rules
	@$(PY) -m ruff check .
	$(PY) -m mypy
	$(PY) -m pytest -q tests/test_house_rules.py

test: check peers  ## check, then every test but the long campaigns
	@$(PY) -m pytest $(ARGS)

bench: $(STAMP) peers  ## measurements beside peers
	@$(PY) -m bench.ingest $(ARGS)
	$(PY) -m bench.ingest --tls --runs 3
	$(PY) -m bench.fanout
	$(PY) -m bench.connections
	$(PY) -m bench.connections --tls --clients 2000
	$(PY) -m bench.policies
	$(PY) -m bench.rules
	$(PY) -m bench.http
	$(PY) -m bench.functions
	$(PY) -m bench.footprint --cloud
	$(PY) -m bench.uplink

soak: $(STAMP) peers  ## the long campaigns
	@$(PY) -m pytest -m soak $(ARGS)

$(STAMP): pyproject.toml
	@python=
	for candidate in $(or $(PYTHON),python3 python3.13 python3.12 python3.11); do
	    if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
	        python=$$candidate
	        break
	    fi
	done
	if [ -z "$$python" ]; then
	    echo "make: Tidegate needs Python 3.11 or later; found $$($(or $(PYTHON),python3) --version 2>&1)." >&2
	    echo "make: Install one, or say where it is: make PYTHON=/path/to/python3.11" >&2
	    exit 1
	fi
	if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then
	    $(call need,python3-venv)
	fi
	if ! [ "$$($(PY) -c 'print(open("$@").read(), end="")' 2>/dev/null)" = "$(CURDIR)" ]; then
	    echo "make: making .venv with $$("$$python" --version)"
	    "$$python" -m venv --clear .venv
	fi
	echo "make: installing what pyproject.toml names into .venv"
	$(PY) -m pip install --disable-pip-version-check --quiet -e '.[dev]'
	printf %s "$(CURDIR)" > $@

peers:
	@missing=
	command -v mosquitto >/dev/null || missing="$$missing mosquitto"
	command -v mosquitto_pub >/dev/null || missing="$$missing mosquitto-clients"
	command -v bwrap >/dev/null || missing="$$missing bubblewrap"
	command -v curl >/dev/null || missing="$$missing curl"
	command -v systemd-analyze >/dev/null || missing="$$missing systemd"
	if [ -n "$$missing" ]; then
	    $(call need,$$missing)
	fi

# Shell lines that install Debian packages as root, or print the command and fail. A service that a package brings is
# not started (policy-rc.d, exit 101), because mosquitto's would take port 1883.
define need
if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
	        echo "make: Debian packages are missing; run: sudo apt-get install --no-install-recommends $(strip $(1))" >&2
	        exit 1
	    fi
	    policy=/usr/sbin/policy-rc.d
	    if ! [ -e $$policy ]; then
	        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
	        printf '#!/bin/sh\nexit 101\n' > $$policy
	        chmod 755 $$policy
	    fi
	    install="env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends $(strip $(1))"
	    $$install || { apt-get update && $$install; }
endef
