"""What Python runs before the prompt of `make chapter-N-shell`: PYTHONSTARTUP names this file.

Its names are deleted again, as it runs where the learner's own code will.
"""

import os
import sys

# There is no __file__ here, and the course is not on the learner's path.
del os.environ["PYTHONSTARTUP"]
sys.path.insert(0, os.environ.pop("COURSE_TOP"))
from course.stale_prompt import StalePrompt

del sys.path[0]
sys.ps1 = StalePrompt(os.getcwd())
del os, sys, StalePrompt
