import threading

import pytest

from libs import rates


def test_a_closed_bank(monkeypatch):
    monkeypatch.setattr(rates, "BANK_URL", "http://127.0.0.1:1")
    monkeypatch.setattr(rates, "own", threading.local())
    with pytest.raises(rates.BankError):
        rates.rate("USD")
