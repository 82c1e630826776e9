"""What this package offers: `from tasks import add_request`."""

from tasks.alarm import alarm_request
from tasks.ledger import enter_request, interest_request
from tasks.math import add_request, divide_request, mul_request, sub_request, xsum_request
from tasks.rates import rate_request

__all__ = [
    "add_request",
    "alarm_request",
    "divide_request",
    "enter_request",
    "interest_request",
    "mul_request",
    "rate_request",
    "sub_request",
    "xsum_request",
]
