"""A learner's copy of the checkout for each test, in a folder with an awkward name."""

import os

import pytest
from support.checkout import Checkout

from course.environment import PROGRAMS

# A shell would run parts of this, or split it; a colon splits PATH.
AWKWARD = """it's my "course" $HOME $(touch ran) `touch ran` a:b"""


@pytest.fixture
def clone(tmp_path):
    """A function that makes a copy; its arguments are the names that become links."""
    checkouts = []

    def make(*linked):
        folder = tmp_path / str(len(checkouts)) / AWKWARD
        checkouts.append(Checkout(folder, linked))
        return checkouts[-1]

    yield make
    for checkout in checkouts:
        checkout.end()


@pytest.fixture
def checkout(clone):
    """A copy that is set up."""
    return clone(PROGRAMS.parent.name)


@pytest.fixture(params=range(int(os.environ.get("ROUNDS") or 1)))
def turn(request):
    """The round of a test; CONTRIBUTING.md says how ROUNDS repeats them."""
    return request.param
