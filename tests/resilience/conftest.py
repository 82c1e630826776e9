"""A learner's copy of the checkout for one test, in a folder of an awkward name."""

import os

import pytest
from support.checkout import Checkout

from course.environment import PROGRAMS

# What a shell would run or trip over, and PATH cut in two.
AWKWARD = """it's my "course" $HOME $(touch ran) `touch ran` a:b"""


@pytest.fixture
def clone(tmp_path):
    """A function that makes a copy; it takes the names of what is linked."""
    made = []
    yield (
        lambda *linked: (
            made.append(Checkout(tmp_path / str(len(made)) / AWKWARD, linked)) or made[-1]
        )
    )
    for checkout in made:
        checkout.end()


@pytest.fixture
def checkout(clone):
    """A copy that is set up."""
    return clone(PROGRAMS.parent.name)


@pytest.fixture(params=range(int(os.environ.get("ROUNDS") or 1)))
def turn(request):
    """The round of a test that ROUNDS=20 repeats."""
    return request.param
