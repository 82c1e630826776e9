"""What this package offers: `from tasks import add`."""

from tasks.math import add, divide, mul, sub
from tasks.text import shout

__all__ = ["add", "divide", "mul", "shout", "sub"]
