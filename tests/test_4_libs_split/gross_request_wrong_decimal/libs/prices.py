"""Prices, as Decimals: plain functions, with no Celery in them."""

from decimal import ROUND_HALF_UP, Decimal

from loguru import logger


def gross(net, percent):
    """Return a price with tax, rounded half up to cents."""
    exact = net * (100 + percent) / 100
    result = exact.quantize(Decimal("0.01"), rounding=ROUND_HALF_UP)
    logger.debug("{} + {} % = {}", net, percent, result)
    return result
