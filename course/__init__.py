"""What a learner runs: `python -m course --help`. The Makefile is the documented way to call it."""
