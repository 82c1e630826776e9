# The course as commands; `make` lists them.

# None of make's own rules: there is nothing of theirs here, and looking for it delays every command.
.SUFFIXES:

STACK ?= pinned
export STACK
ENV = $(if $(filter pinned,$(STACK)),.venv,.venv-$(STACK))
# Without the stack, any Python: it may be gone, or not there yet.
ANY_PYTHON = $$(command -v $(ENV)/bin/python || command -v python3)
PYTEST = $(ENV)/bin/python -m pytest
COMPILE = sh tools/uv.sh pip compile --quiet --universal --python-version 3.11 --no-annotate --no-emit-index-url --no-emit-find-links
LOCK = $(COMPILE) --no-header --generate-hashes --output-file tools/locks

ifeq ($(filter $(STACK),pinned latest),)
$(error There is no stack "$(STACK)": STACK is pinned or latest)
endif

# A learner's own folder is of use to these alone.
WITH_DIR = chapter-%-worker chapter-%-shell chapter-%-start chapter-%-check chapter-%-hint chapter-%-watch chapter-%-diff chapter-%-test
ifneq ($(DIR),)
ifneq ($(filter-out $(WITH_DIR),$(MAKECMDGOALS)),)
$(error DIR is of no use to "$(filter-out $(WITH_DIR),$(MAKECMDGOALS))": type it without DIR=$(DIR))
endif
endif

help:
	@echo 'make chapter-N-worker   start Redis where none answers, and the worker of chapter N (ARGS="-c 4" is passed on)'
	@echo 'make chapter-N-shell    Python in the folder of chapter N, for a second terminal'
	@echo 'make chapter-N-diff     what changed since the chapter before: the code, not the lesson'
	@echo 'make chapter-N-start    copy the chapter before into my/N-name, to write chapter N yourself'
	@echo 'make chapter-N-check    check your attempt step by step; -hint gives a hint, -watch checks at each save'
	@echo 'make chapter-N-test     the whole suite of chapter N'
	@echo 'make chapter-N-purge    drop the messages that wait in the queue; it asks first'
	@echo 'make chapter-N-up       Redis and WORKERS=3 workers of chapter N in Docker containers; make logs, make down'
	@echo 'make test               every suite; make test-docker runs them on containers'
	@echo 'make messages           show live what travels through Redis'
	@echo 'make redis, make stop   start Redis on 127.0.0.1:6379; stop what was started here'
	@echo 'make setup              install the stack into .venv (STACK=latest: into .venv-latest)'
	@echo 'make bench              measure the course against what one would type without it (ARGS="start" for one figure)'
	@echo 'make site, site-serve   the course as pages in .course/site-pages; the same, shown on 127.0.0.1:8000'
	@echo 'make lint, make clean   check the style of the code; remove what set-up made'
	@echo
	@echo 'STACK=latest takes the current Celery; REDIS=docker or REDIS=embedded chooses the server, REDIS_PORT=6380 its port.'
	@echo 'DIR=~/my-attempt names a folder of your own, for -worker, -shell, -start, -check, -hint, -watch, -diff and -test.'

setup:
	@sh tools/setup.sh $(STACK)

setup-test:
	@sh tools/setup.sh $(STACK)-test

setup-site:
	@sh tools/setup.sh site

redis: setup
	@$(ENV)/bin/python tools/server.py start

stop:
	@python=$(ANY_PYTHON) && "$$python" tools/server.py stop

chapter-%-worker: setup
	@$(ENV)/bin/python tools/worker.py $* $(ARGS)

chapter-%-shell: setup
	@$(ENV)/bin/python tools/course.py $* python

chapter-%-purge: setup
	@$(ENV)/bin/python tools/course.py $* celery -A tasks purge $(ARGS)

chapter-%-up: setup
	@$(ENV)/bin/python tools/worker.py up $*

logs down:
	@python=$(ANY_PYTHON) && "$$python" tools/server.py $@

chapter-%-diff:
	@python=$(ANY_PYTHON) && "$$python" tools/attempt.py diff $* $(ARGS)

chapter-%-start: setup-test
	@$(ENV)/bin/python tools/attempt.py start $*

chapter-%-check: setup-test
	@$(ENV)/bin/python tests/check.py $*

chapter-%-hint: setup-test
	@$(ENV)/bin/python tests/check.py $* hint

chapter-%-watch: setup-test
	@$(ENV)/bin/python tests/check.py $* watch

messages: setup
	@$(ENV)/bin/python tools/messages.py

chapter-%-test: setup-test
	@$(PYTEST) --chapter=$* $(ARGS)

test: setup-test
	@$(PYTEST) $(ARGS)

test-docker: setup-test
	@$(PYTEST) --docker $(ARGS)

test-resilience: setup-test
	@$(PYTEST) tests/resilience --dist load $(ARGS)

bench: setup-test
	@$(ENV)/bin/python tools/bench.py $(ARGS)

lint: setup-test
	@$(ENV)/bin/ruff check
	@$(ENV)/bin/ruff format --check

site: setup-site
	@.venv-site/bin/python tools/site/build.py

site-serve: site
	@.venv-site/bin/python -m http.server --bind 127.0.0.1 --directory .course/site-pages $(or $(SITE_PORT),8000)

site-test: site
	@.venv-site/bin/python -m pytest -o addopts= tools/site $(ARGS)

# For maintainers; CONTRIBUTING.md has the rest.
lock:
	@$(LOCK)/pinned-test.txt --group pinned --group test
	@$(LOCK)/pinned.txt --group pinned --constraint tools/locks/pinned-test.txt
	@$(LOCK)/latest-test.txt --group latest --group test
	@$(LOCK)/latest.txt --group latest --constraint tools/locks/latest-test.txt
	@$(LOCK)/site.txt --group site
	@$(COMPILE) --custom-compile-command 'make lock' --output-file requirements.txt --group pinned --group test --constraint tools/locks/pinned-test.txt

# Strict: a package that cannot be looked up is no clean one. SECURITY.md has the reason for what is passed over.
AUDIT = sh tools/uv.sh tool run pip-audit==2.10.1 --strict --disable-pip --no-deps --progress-spinner off --requirement
audit:
	@$(AUDIT) tools/locks/pinned-test.txt --ignore-vuln PYSEC-2021-858
	@$(AUDIT) tools/locks/latest-test.txt
	@$(AUDIT) tools/locks/site.txt

tags:
	@sh tools/tags.sh

carry:
	@sh tools/carry.sh "$$FROM"

clean: stop
	rm -rf .course .venv .venv-latest .venv-site .pytest_cache .ruff_cache
	find chapters tests tools -name __pycache__ -prune -exec rm -rf {} +

.PHONY: help setup setup-test setup-site redis stop messages logs down test test-docker test-resilience bench lint site site-serve site-test lock audit tags carry clean
