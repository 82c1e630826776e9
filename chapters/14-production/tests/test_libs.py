"""The functions, without Celery."""

import pytest

from libs import ledger, math


@pytest.mark.parametrize(
    "function, answer", [(math.add, 11), (math.sub, 7), (math.mul, 18), (math.divide, 4.5)]
)
def test_arithmetic(function, answer):
    assert function(9, 2) == answer


def test_xsum_reports_each_number():
    reports = []
    assert math.xsum([9, 2], lambda done, of: reports.append((done, of))) == 11
    assert reports == [(1, 2), (2, 2)]


def test_a_key_is_entered_once():
    assert ledger.enter("pay", 2000) == 2000.0
    assert ledger.enter("rent", -500) == 1500.0
    assert ledger.enter("pay", 2000) == 1500.0


def test_interest_is_paid_once_a_day():
    ledger.enter("pay", 1000)
    assert ledger.pay_interest("2026-01-01", 0.5) == 1500.0
    assert ledger.pay_interest("2026-01-01", 0.5) == 1500.0
    assert ledger.pay_interest("2026-01-02", 0.5) == 2250.0
