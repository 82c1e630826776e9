# The commands of the course. `make` lists them from the ## comments here; ##@ begins a group.

# None of make's own rules: looking for them delays every command.
.SUFFIXES:
STACK ?= pinned
export STACK
ifeq ($(STACK),pinned)
ENV = .venv
else
ENV = .venv-$(STACK)
endif
COURSE = @$(ENV)/bin/python -m course
PYTEST = @$(ENV)/bin/python -m pytest
# For what works before set-up too, any Python will do.
PYTHON = $$(command -v $(ENV)/bin/python || command -v python3)
NO_PYTHON = echo 'Python is missing: install python3, and type the command again.' >&2; exit 1
ANY = @python=$(PYTHON) || { $(NO_PYTHON); }; "$$python" -m course

# The numbers of the chapters; and the targets of one verb, such as chapter-1-worker.
NUMBERS := $(sort $(foreach folder,$(notdir $(wildcard chapters/[1-9]*-*)),\
    $(firstword $(subst -, ,$(folder)))))
each = $(NUMBERS:%=chapter-%-$(1))
# The chapters with a compose project to themselves.
COMPOSED := $(foreach file,$(wildcard chapters/*/compose.yml),\
    chapter-$(firstword $(subst -, ,$(word 2,$(subst /, ,$(file)))))-up)
# Only these verbs use a learner's own folder.
WITH_DIR := $(foreach verb,worker shell beat flower web pytest start change undo check hint watch \
    diff test,$(call each,$(verb))) $(COMPOSED) logs down
WITHOUT_DIR := $(filter-out $(COMPOSED),$(call each,up)) $(call each,purge) progress messages \
    redis stop

# What the learner can set, and what was typed behind the target.
VARIABLES = ARGS DIR REDIS REDIS_HOST REDIS_PORT STACK WORKERS FROM N ROUNDS SITE SITE_PORT
GIVEN := $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name)))
UNKNOWN := $(filter-out $(VARIABLES),$(GIVEN))
ifneq ($(UNKNOWN),)
MISSPELT := $(shell "$(PYTHON)" -m course suggest variable '$(firstword $(UNKNOWN))' \
    $(VARIABLES))
endif
ifneq ($(MISSPELT),)
$(error $(MISSPELT))
endif
ifeq ($(filter $(STACK),pinned latest),)
$(error There is no stack "$(STACK)": STACK is pinned or latest)
endif
IGNORES_DIR := $(filter $(WITHOUT_DIR),$(MAKECMDGOALS))
ifneq ($(and $(DIR),$(IGNORES_DIR)),)
$(error $(IGNORES_DIR) doesn't use DIR: type it without DIR=$(DIR))
endif

# Before the set-up of the checks, which takes a while, a folder that is missing is named.
ifeq ($(wildcard $(ENV)/installed-$(STACK)-test),)
ATTEMPT = chapter-%-attempt
NEW = chapter-%-new
endif

help:
	@awk -f tools/help.awk Makefile
	@echo
	@echo 'STACK=latest uses the current Celery. REDIS=docker or REDIS=embedded chooses the server,'
	@echo 'REDIS_PORT=6380 its port. DIR=~/my-attempt names a folder of your own.'
	@echo 'make maintain lists what else there is.'

##@ start
$(call each,worker): chapter-%-worker: setup ## start Redis if none answers, and chapter N's worker
	$(COURSE) worker $* $(ARGS)
$(call each,shell): chapter-%-shell: setup ## open Python there, in a second terminal
	$(COURSE) shell $* $(ARGS)
$(call each,beat): chapter-%-beat: setup ## start chapter N's beat, beside its worker
	$(COURSE) run $* celery -A tasks beat --loglevel=info $(ARGS)
$(call each,flower): chapter-%-flower: setup-web ## show tasks and workers on 127.0.0.1:5555
	$(COURSE) run $* python -m flower -A tasks flower --address=127.0.0.1 $(ARGS)
$(call each,web): chapter-%-web: setup-web ## start chapter N's web page on 127.0.0.1:8000
	$(COURSE) run $* python -m uvicorn web:app $(ARGS)
$(call each,up): chapter-%-up: setup ## run Redis and WORKERS=3 workers in Docker containers
	$(COURSE) up $*
redis: setup ## start Redis if none answers
	$(COURSE) redis

##@ look
messages: setup ## show what travels through Redis, live
	$(COURSE) messages $(ARGS)
logs: ## show the log of the workers in containers
	$(ANY) logs $(ARGS)
$(call each,diff): chapter-%-diff: ## show what changed since the previous chapter, or in DIR
	$(ANY) diff $* $(ARGS)

##@ try
$(call each,start): chapter-%-start: $(NEW) setup-test ## copy the previous chapter into my/N-name
	$(COURSE) start $*
$(call each,change): chapter-%-change: ## make the lesson's change N=2, or its only one, or list them
	$(ANY) change $* $(N)
$(call each,undo): chapter-%-undo: ## take the lesson's changes back
	$(ANY) undo $*

##@ check
$(call each,check): chapter-%-check: $(ATTEMPT) setup-test ## check your attempt step by step
	$(COURSE) check $*
$(call each,hint): chapter-%-hint: $(ATTEMPT) setup-test ## check it, and nudge you, then hint
	$(COURSE) check $* hint
$(call each,watch): chapter-%-watch: $(ATTEMPT) setup-test ## check it each time you save
	$(COURSE) check $* watch
$(call each,pytest): chapter-%-pytest: setup-test ## run the tests in chapter N's folder
	$(COURSE) run $* pytest $(ARGS)
$(call each,test): chapter-%-test: setup-test ## run the course's tests of chapter N
	$(PYTEST) --chapter=$* $(ARGS)
progress: ## show which chapters are done
	$(ANY) progress

$(call each,attempt): chapter-%-attempt:
	@python=$(PYTHON) || exit 0; "$$python" -m course attempt $*
$(call each,new): chapter-%-new:
	@python=$(PYTHON) || exit 0; "$$python" -m course attempt $* new

##@ stop
$(call each,purge): chapter-%-purge: setup ## drop the messages that wait, after asking you
	$(COURSE) run $* celery -A tasks purge $(ARGS)
down: ## remove the containers
	$(ANY) down $(ARGS)
stop: ## stop the servers that were started here
	$(ANY) stop

include maintain.mk

# Any target that isn't there.
.DEFAULT:
	$(ANY) suggest target '$@' $(WITH_DIR) $(WITHOUT_DIR) $(MAINTAINED)

.PHONY: help $(WITH_DIR) $(WITHOUT_DIR) $(call each,attempt) $(call each,new)
