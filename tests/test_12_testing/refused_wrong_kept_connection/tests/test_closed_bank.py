import pytest

from libs import rates


def test_a_closed_bank(bank, monkeypatch):
    rates.rate("USD")
    monkeypatch.setattr(rates, "BANK_URL", "http://127.0.0.1:1")
    with pytest.raises(rates.BankError):
        rates.rate("USD")
