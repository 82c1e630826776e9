"""What this package offers: `from tasks import add`."""

from tasks.math import add, divide, mul, sub

__all__ = ["add", "divide", "mul", "sub"]
