# What a maintainer types: CONTRIBUTING.md says when. `make maintain` lists it.

MAINTAINED = help maintain setup setup-web setup-test setup-browser setup-site setup-manifests \
    clean test test-docker test-browser test-resilience bench picture recordings site \
    site-serve site-test lint lock audit tags carry
COMPILE = @sh tools/uv.sh pip compile --quiet --universal --python-version 3.11 --no-annotate \
    --no-emit-index-url --no-emit-find-links
LOCK = $(COMPILE) --no-header --generate-hashes --output-file tools/locks
# This chapter's image is built from its folder alone, so the folder has copies.
IMAGE = chapters/14-production
# Strict: a package that cannot be looked up is no clean one. SECURITY.md says why one is ignored.
AUDIT = @sh tools/uv.sh tool run pip-audit==2.10.1 --strict --disable-pip --no-deps \
    --progress-spinner off --requirement tools/locks
# A warning fails the build, as a missing link or picture is only a warning.
SPHINX = .venv-site/bin/python -m sphinx --quiet --fail-on-warning --nitpicky --jobs=auto \
    --fresh-env --conf-dir tools/site --doctree-dir .course/site-doctrees
PAGES = .course/site-pages

maintain:
	@awk -f tools/help.awk maintain.mk

##@ setup
setup: ## install the stack
	@sh tools/setup.sh $(STACK)
setup-web: ## install Flower and the web server too
	@sh tools/setup.sh $(STACK)-web
setup-test: ## install what tests and checks need too
	@sh tools/setup.sh $(STACK)-test
setup-browser:
	@sh tools/setup.sh $(STACK)-browser
setup-site:
	@sh tools/setup.sh site
setup-manifests:
	@sh tools/setup.sh manifests
clean: stop ## remove what set-up made
	rm -rf .course .venv .venv-latest .venv-manifests .venv-site .pytest_cache .ruff_cache
	find chapters course tests tools -name __pycache__ -prune -exec rm -rf {} +

##@ test
test: setup-test setup-manifests ## run every chapter's tests and lesson
	$(PYTEST) $(ARGS)
test-docker: setup-test ## run them on containers
	$(PYTEST) --docker -n 3 $(ARGS)
test-browser: setup-test setup-browser ## run the tests that look at a page in a browser
	$(PYTEST) -k browser $(ARGS)
test-resilience: setup setup-web setup-test ## kill, interrupt and damage things
	$(PYTEST) tests/resilience --dist load $(ARGS)
lint: setup-test ## check the style of the code
	@$(ENV)/bin/ruff check
	@$(ENV)/bin/ruff format --check
bench: setup-test ## compare with what one types without the course (ARGS="start" for one figure)
	@$(ENV)/bin/python -m tools.bench $(ARGS)

##@ pages
picture: setup-test ## write docs/picture.svg anew
	@PICTURE=write $(ENV)/bin/python -m pytest -n 0 tests/test_1_picture.py
recordings: setup-test ## make the recordings anew that the site replays
	@RECORD=write STACK=pinned .venv/bin/python -m pytest -n 3 tests/test_*_recording.py
site: setup-site ## build the course as web pages in .course/site-pages
	@rm -rf $(PAGES)
	@$(SPHINX) . $(PAGES) || { rm -rf $(PAGES); $(NO_SITE); }
	@echo 'The site is in $(PAGES); make site-serve shows it.'
site-serve: site ## build it, and show it on 127.0.0.1:8000, or SITE_PORT
	@.venv-site/bin/python -m http.server --bind 127.0.0.1 --directory $(PAGES) \
	    $(or $(SITE_PORT),8000) 2>/dev/null || { $(NO_PORT); }
site-test: site ## test the built site
	@.venv-site/bin/python -m pytest -o addopts= tools/site $(ARGS)
NO_SITE = echo 'The site was not built: mend what the lines above name, and type make site again.' \
    >&2; exit 1
NO_PORT = echo 'That port is taken: name another, as in make site-serve SITE_PORT=8001' >&2; exit 1

##@ keep
lock: ## look up the newest versions that pyproject.toml allows
	$(LOCK)/pinned-test.txt --group pinned --group pinned-web --group test
	$(LOCK)/pinned-web.txt --group pinned --group pinned-web \
	    --constraint tools/locks/pinned-test.txt
	$(LOCK)/pinned.txt --group pinned --constraint tools/locks/pinned-test.txt
	$(LOCK)/latest-test.txt --group latest --group latest-web --group test
	$(LOCK)/latest-web.txt --group latest --group latest-web \
	    --constraint tools/locks/latest-test.txt
	$(LOCK)/latest.txt --group latest --constraint tools/locks/latest-test.txt
	$(LOCK)/site.txt --group site
	$(LOCK)/manifests.txt --group manifests
	$(LOCK)/browser.txt --group browser --constraint tools/locks/site.txt
	$(COMPILE) --custom-compile-command 'make lock' --output-file requirements.txt \
	    --group pinned --group pinned-web --group test --constraint tools/locks/pinned-test.txt
	cp tools/fix_billiard.py $(IMAGE)
	cp tools/locks/uv.txt $(IMAGE)/requirements-uv.txt
	cp tools/locks/pinned-web.txt $(IMAGE)/requirements-pinned.txt
	cp tools/locks/latest-web.txt $(IMAGE)/requirements-latest.txt
audit: ## look for known vulnerabilities in the locked packages
	$(AUDIT)/pinned-test.txt --ignore-vuln PYSEC-2021-858
	$(AUDIT)/latest-test.txt
	$(AUDIT)/site.txt
	$(AUDIT)/manifests.txt
tags: ## make the tags of the chapters
	@sh tools/tags.sh
carry: ## make a change of chapter FROM in the later chapters too
	@sh tools/carry.sh "$$FROM"

.PHONY: $(MAINTAINED)
