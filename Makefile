# The course as commands; `make help` lists them.

# None of make's own rules: there is nothing of theirs here, and looking for it delays every command.
.SUFFIXES:

STACK = pinned
STACKS = pinned latest
CHAPTERS := $(sort $(notdir $(wildcard chapters/[0-9]*)))
PYTHON = .course/$(STACK)/bin/python
TESTS = .course/$(STACK)-tests
PYTEST = $(TESTS)/bin/python -m pytest
# The ports where a server of ours may be: the one asked for, or those that we have data of.
PORTS = $(or $(REDIS_PORT),$(sort 6379 $(notdir $(wildcard .course/redis/*))))
export STACK

# For what runs without the stack.
ANY_PYTHON = $(firstword $(wildcard .course/*/bin/python) python3)

# The chapter of a target, by its number.
chapter = $(filter $*-%,$(CHAPTERS))

ifeq ($(filter $(STACK),$(STACKS)),)
$(error There is no stack "$(STACK)": STACK is one of $(STACKS))
endif
known = $(foreach name,$(CHAPTERS),chapter-$(firstword $(subst -, ,$(name)))-%)
unknown = $(filter-out $(known) chapter-%-diff,$(filter chapter-%,$(MAKECMDGOALS)))
ifneq ($(unknown),)
$(error No chapter for "$(unknown)": the chapters are $(CHAPTERS))
endif

help:
	@echo 'make chapter-N-worker   start Redis where none answers, and the worker of chapter N (ARGS="-c 4" is passed on)'
	@echo 'make chapter-N-shell    Python in the folder of chapter N, for a second terminal'
	@echo 'make chapter-N-up       the same in Docker containers, WORKERS=3 of them; make down removes them'
	@echo 'make chapter-N-logs     what the workers in containers log'
	@echo 'make chapter-N-diff     what changed since the chapter before'
	@echo 'make chapter-N-start    copy the chapter before into a new folder, DIR=~/my-attempt, to write chapter N yourself'
	@echo 'make chapter-N-test     the suite of chapter N (DIR=~/my-attempt runs it on your own folder)'
	@echo 'make chapter-N-purge    drop the messages that wait in the queue; it asks first'
	@echo 'make test               every suite; make test-docker runs them on containers'
	@echo 'make redis, make stop   start Redis on 127.0.0.1:6379; stop the one that we started'
	@echo 'make setup              install the stack'
	@echo 'make bench              measure the course against what one would type without it (ARGS="start" for one figure)'
	@echo 'make site, site-serve   the course as pages in .course/site-pages; the same, shown on 127.0.0.1:8000'
	@echo 'make lint, make clean   check the style of the code; remove what set-up made'
	@echo
	@echo 'STACK=latest takes the current Celery; REDIS=docker or REDIS=embedded chooses the server, REDIS_PORT=6380 its port.'
	@echo 'Chapters: $(CHAPTERS)'

setup: .course/$(STACK)/installed

.course/%/installed: tools/locks/%.txt tools/setup.sh tools/fix_billiard.py
	@sh tools/setup.sh $*

redis: setup
	@$(PYTHON) tools/server.py start

stop:
	@for port in $(PORTS); do REDIS_PORT=$$port $(ANY_PYTHON) tools/server.py stop; done

chapter-%-worker: redis
	@sh tools/in-chapter.sh $(chapter) python "$(CURDIR)/tools/preflight.py"
	@sh tools/in-chapter.sh $(chapter) celery -A tasks worker --loglevel=info $(ARGS)

chapter-%-shell: setup
	@sh tools/in-chapter.sh $(chapter) python

chapter-%-purge: setup
	@sh tools/in-chapter.sh $(chapter) celery -A tasks purge $(ARGS)

# Workers in containers, of an image with the stack. They start anew each time, as they do not reload edited code.
chapter-%-up:
	@REDIS=docker CELERY_BROKER_URL= $(ANY_PYTHON) tools/server.py start
	@CHAPTER=$* ARGS="$(ARGS)" sh tools/compose.sh up -d --build --no-deps --force-recreate --scale worker=$(or $(WORKERS),1) worker

chapter-%-logs:
	@sh tools/compose.sh logs --follow worker

down:
	@sh tools/compose.sh down

chapter-%-diff:
	@sh tools/diff.sh $*

chapter-%-test: setup $(TESTS)/installed
	@$(PYTEST) --chapter=$(chapter) $(if $(DIR),--dir="$(DIR)") $(ARGS)

chapter-%-start:
	@sh tools/start.sh $(chapter) "$(DIR)"

test: setup $(TESTS)/installed
	@$(PYTEST) $(ARGS)

test-docker: setup $(TESTS)/installed
	@$(PYTEST) --docker $(ARGS)

test-accidents: setup $(TESTS)/installed
	@$(PYTEST) tests/accidents --dist load $(ARGS)

bench: setup $(TESTS)/installed
	@$(TESTS)/bin/python tools/bench.py $(ARGS)

lint: $(TESTS)/installed
	@$(TESTS)/bin/ruff check
	@$(TESTS)/bin/ruff format --check

site: .course/site/installed
	@.course/site/bin/python tools/site/pages.py

site-serve: site
	@.course/site/bin/python tools/site/serve.py $(SITE_PORT)

site-test: site
	@.course/site/bin/python -m pytest -o addopts= tools/site $(ARGS)

# For maintainers: after a change of a requirements file, and after a change of a chapter.
lock:
	@sh tools/lock.sh

audit:
	@sh tools/audit.sh

tags:
	@sh tools/tags.sh

clean: stop
	rm -rf .course
	find chapters tests tools -name __pycache__ -prune -exec rm -rf {} +
	rm -rf .pytest_cache .ruff_cache

.PHONY: help setup redis stop down test test-docker test-accidents bench lint site site-serve site-test lock audit tags clean
