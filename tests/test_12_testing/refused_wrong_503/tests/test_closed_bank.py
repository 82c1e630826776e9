import pytest

from libs import rates


def test_a_closed_bank(bank):
    bank.failures = 1
    with pytest.raises(rates.BankError):
        rates.rate("USD")
