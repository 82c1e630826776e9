"""What this package offers: `from tasks import add_request`."""

from tasks.math import add_request, divide_request, mul_request, sub_request, xsum_request
from tasks.reports import report_request, try_divide_request

__all__ = [
    "add_request",
    "divide_request",
    "mul_request",
    "report_request",
    "sub_request",
    "try_divide_request",
    "xsum_request",
]
