"""What this package offers: `from tasks import add_request`."""

from tasks.math import add_request, divide_request, mul_request, sub_request
from tasks.prices import gross_request

__all__ = ["add_request", "divide_request", "gross_request", "mul_request", "sub_request"]
