"""Prices as floats."""


def gross(net, percent):
    return round(float(net) * (100 + percent) / 100, 2)
