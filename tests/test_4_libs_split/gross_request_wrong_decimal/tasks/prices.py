"""A task that takes text, but returns a Decimal, which Celery 5.1 delivers as text."""

from decimal import Decimal

from libs import prices
from tasks.celery import app


@app.task
def gross_request(net, percent):
    return prices.gross(Decimal(net), percent)
