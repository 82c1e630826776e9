import threading
from unittest.mock import Mock

from libs import rates
from tasks import rate_request


def test_a_closed_bank(monkeypatch):
    monkeypatch.setattr(rates, "BANK_URL", "http://127.0.0.1:1")
    monkeypatch.setattr(rates, "own", threading.local())
    retry = Mock(wraps=rate_request.retry)
    monkeypatch.setattr(rate_request, "retry", retry)
    assert rate_request.apply(("USD",)).state == "FAILURE"
    assert retry.call_count == 4
