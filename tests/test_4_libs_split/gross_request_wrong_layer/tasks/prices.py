"""A task that does the work itself."""

from decimal import ROUND_HALF_UP, Decimal

from tasks.celery import app


@app.task
def gross_request(net, percent):
    exact = Decimal(net) * (100 + percent) / 100
    return str(exact.quantize(Decimal("0.01"), rounding=ROUND_HALF_UP))
