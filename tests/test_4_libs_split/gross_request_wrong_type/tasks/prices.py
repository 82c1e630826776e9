"""A task that passes text to a function of Decimals."""

from libs import prices
from tasks.celery import app


@app.task
def gross_request(net, percent):
    return prices.gross(net, percent)
