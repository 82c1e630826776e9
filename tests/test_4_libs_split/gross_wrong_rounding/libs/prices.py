"""Prices, rounded half to even, as Decimals are unless you say otherwise."""

from decimal import Decimal


def gross(net, percent):
    return (net * (100 + percent) / 100).quantize(Decimal("0.01"))
