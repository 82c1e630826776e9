from datetime import UTC, datetime
from unittest.mock import Mock

from libs import ledger
from tasks import interest_request


def test_interest_is_for_today(monkeypatch):
    clock = Mock()
    clock.now.return_value = datetime(2026, 12, 31, 23, 59, tzinfo=UTC)
    monkeypatch.setattr("tasks.ledger.datetime", clock)
    pay_interest = Mock()
    monkeypatch.setattr(ledger, "pay_interest", pay_interest)
    interest_request(0.01)
    pay_interest.assert_called_with("2026-12-31", 0.01)
