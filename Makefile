# The course as commands; `make` lists those with a ## behind them.

.SUFFIXES: # none of make's own rules: looking for them delays every command
STACK ?= pinned
export STACK
ENV = $(if $(filter pinned,$(STACK)),.venv,.venv-$(STACK))
RUN = @$(ENV)/bin/python
COURSE = $(RUN) -m course
PYTEST = $(RUN) -m pytest
# Where the stack is gone, or not there yet, any Python will do.
ANY = @python=$$(command -v $(ENV)/bin/python || command -v python3) || { echo 'Python is missing: install python3, and type the command again.' >&2; exit 1; }; "$$python"
COMPILE = @sh tools/uv.sh pip compile --quiet --universal --python-version 3.11 --no-annotate --no-emit-index-url --no-emit-find-links
LOCK = $(COMPILE) --no-header --generate-hashes --output-file tools/locks
# Strict: a package that cannot be looked up is no clean one. SECURITY.md has the reason for what is passed over.
AUDIT = @sh tools/uv.sh tool run pip-audit==2.10.1 --strict --disable-pip --no-deps --progress-spinner off --requirement tools/locks
# Any warning fails the build: a link or a picture that is not there is one.
SPHINX = .venv-site/bin/python -m sphinx --quiet --fail-on-warning --nitpicky --jobs=auto --fresh-env --conf-dir tools/site --doctree-dir .course/site-doctrees

ifeq ($(filter $(STACK),pinned latest),)
$(error There is no stack "$(STACK)": STACK is pinned or latest)
endif
# Only these use a learner's own folder.
WITHOUT_DIR = $(filter-out $(addprefix chapter-%-,worker shell beat flower web pytest start check hint watch diff test change undo),$(MAKECMDGOALS))
ifneq ($(and $(DIR),$(WITHOUT_DIR)),)
$(error $(WITHOUT_DIR) doesn't use DIR: type it without DIR=$(DIR))
endif

help:
	@sed -n 's/^\([a-z%-]*\):.*## /\1  /p' Makefile | sed 's/%/N/' | awk -F '  ' '{ printf "make %-18s %s\n", $$1, $$2 }'
	@echo 'STACK=latest uses the current Celery; REDIS=docker or REDIS=embedded chooses the server, REDIS_PORT=6380 its port;'
	@echo 'DIR=~/my-attempt names a folder of your own, for -worker, -shell, -beat, -flower, -web, -pytest, -start, -check, -hint, -watch, -diff and -test.'

chapter-%-worker: setup ## start Redis if none answers, and the worker of chapter N (ARGS="-c 4" is passed on)
	$(COURSE) worker $* $(ARGS)
chapter-%-shell: setup ## open Python in the folder of chapter N, in a second terminal
	$(COURSE) run $* python $(ARGS)
chapter-%-beat: setup ## start the beat of chapter N, beside its worker (from chapter 8 on)
	$(COURSE) run $* celery -A tasks beat --loglevel=info $(ARGS)
chapter-%-flower: setup-web ## show tasks and workers of chapter N on 127.0.0.1:5555 (from chapter 9 on)
	$(COURSE) run $* python -m flower -A tasks flower --address=127.0.0.1 $(ARGS)
chapter-%-web: setup-web ## start the web page of chapter N on 127.0.0.1:8000 (from chapter 11 on)
	$(COURSE) run $* python -m uvicorn web:app $(ARGS)
chapter-%-pytest: setup-test ## run the tests that are in the folder of chapter N (from chapter 10 on)
	$(COURSE) run $* pytest $(ARGS)
messages: setup ## show what travels through Redis, live (ARGS=--json for one event a line)
	$(COURSE) messages $(ARGS)
chapter-%-change: ## make the lesson's change N=2 for you, or list its changes
	$(ANY) -m course change $* $(N)
chapter-%-undo: ## take the lesson's changes back
	$(ANY) -m course undo $*
progress: ## show which chapters are done
	$(ANY) -m course progress
chapter-%-diff: ## show what changed since the chapter before, or between DIR and chapter N
	$(ANY) -m course diff $* $(ARGS)
chapter-%-start: setup-test ## copy the chapter before into my/N-name, where you write chapter N yourself
	$(COURSE) start $*
chapter-%-check: setup-test ## check your attempt step by step
	$(COURSE) check $*
chapter-%-hint: setup-test ## check it, with a hint for the step that fails
	$(COURSE) check $* hint
chapter-%-watch: setup-test ## check it each time you save
	$(COURSE) check $* watch
chapter-%-test: setup-test ## run all tests of chapter N
	$(PYTEST) --chapter=$* $(ARGS)
chapter-%-purge: setup ## drop the messages that wait in the queue, after asking you
	$(COURSE) run $* celery -A tasks purge $(ARGS)
chapter-%-up: setup ## run Redis and WORKERS=3 workers of chapter N in Docker containers
	$(COURSE) worker $* up
logs: ## show the log of the workers in containers
	$(ANY) -m course logs $(ARGS)
down: ## remove the containers
	$(ANY) -m course down $(ARGS)
redis: setup ## start Redis on 127.0.0.1:6379
	$(COURSE) redis
stop: ## stop the servers that were started here
	$(ANY) -m course stop
test: setup-test ## run every chapter's tests and lesson
	$(PYTEST) $(ARGS)
test-docker: setup-test ## run them on containers
	$(PYTEST) --docker -n 3 $(ARGS)
test-browser: setup-test setup-browser ## run the tests that look at a page in a browser
	$(PYTEST) -k browser $(ARGS)
test-resilience: setup setup-web setup-test ## kill, interrupt and damage things, and see what survives
	$(PYTEST) tests/resilience --dist load $(ARGS)
bench: setup-test ## compare the course with what you would type without it (ARGS="start" for one figure)
	$(RUN) -m tools.bench $(ARGS)
picture: setup-test
	@PICTURE=write $(ENV)/bin/python -m pytest -n 0 tests/test_1_picture.py
site: setup-site ## build the course as web pages in .course/site-pages
	@rm -rf .course/site-pages
	@$(SPHINX) . .course/site-pages || { rm -rf .course/site-pages; echo 'The site was not built: mend what the lines above name, and type make site again.' >&2; exit 1; }
	@echo 'The site is in .course/site-pages; make site-serve shows it.'
site-serve: site ## build it, and show it on 127.0.0.1:8000
	@.venv-site/bin/python -m http.server --bind 127.0.0.1 --directory .course/site-pages $(or $(SITE_PORT),8000) 2>/dev/null || { echo 'That port is not free: name another, as in make site-serve SITE_PORT=8001' >&2; exit 1; }
site-test: site
	@.venv-site/bin/python -m pytest -o addopts= tools/site $(ARGS)
setup: ## install the stack
	@sh tools/setup.sh $(STACK)
setup-web setup-test setup-browser: setup-%:
	@sh tools/setup.sh $(STACK)-$*
setup-site:
	@sh tools/setup.sh site
lint: setup-test ## check the style of the code
	@$(ENV)/bin/ruff check
	@$(ENV)/bin/ruff format --check
clean: stop ## remove what set-up made
	rm -rf .course .venv .venv-latest .venv-site .pytest_cache .ruff_cache
	find chapters course tests tools -name __pycache__ -prune -exec rm -rf {} +

# For maintainers: CONTRIBUTING.md.
lock:
	$(LOCK)/pinned-test.txt --group pinned --group pinned-web --group test
	$(LOCK)/pinned-web.txt --group pinned --group pinned-web --constraint tools/locks/pinned-test.txt
	$(LOCK)/pinned.txt --group pinned --constraint tools/locks/pinned-test.txt
	$(LOCK)/latest-test.txt --group latest --group latest-web --group test
	$(LOCK)/latest-web.txt --group latest --group latest-web --constraint tools/locks/latest-test.txt
	$(LOCK)/latest.txt --group latest --constraint tools/locks/latest-test.txt
	$(LOCK)/site.txt --group site
	$(LOCK)/browser.txt --group browser --constraint tools/locks/site.txt
	$(COMPILE) --custom-compile-command 'make lock' --output-file requirements.txt --group pinned --group pinned-web --group test --constraint tools/locks/pinned-test.txt
audit:
	$(AUDIT)/pinned-test.txt --ignore-vuln PYSEC-2021-858
	$(AUDIT)/latest-test.txt
	$(AUDIT)/site.txt
tags:
	@sh tools/tags.sh
carry:
	@sh tools/carry.sh "$$FROM"

.PHONY: help progress messages logs down redis stop test test-docker test-browser test-resilience bench picture site site-serve site-test setup setup-web setup-test setup-browser setup-site lint clean lock audit tags carry
