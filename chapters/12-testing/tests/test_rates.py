"""The rates: asked for again, and given up, as the bank's answers say."""

from unittest.mock import Mock

import pytest

from libs.rates import BankBusy, UnknownCurrency
from tasks import rate_request


@pytest.fixture
def retry(monkeypatch):
    """Note each call of the task's retry, which goes on as usual."""
    retry = Mock(wraps=rate_request.retry)
    monkeypatch.setattr(rate_request, "retry", retry)
    return retry


def test_the_bank_is_asked_again(bank):
    bank.failures = 2
    assert rate_request.apply(("USD",)).get() == 1.16
    assert bank.asked == 3


def test_a_bank_that_stays_down_is_given_up(bank, retry):
    bank.failures = 100
    assert rate_request.apply(("USD",)).state == "FAILURE"
    assert bank.asked == 4
    for call, longest in zip(retry.call_args_list, (1, 2, 4, 8), strict=True):
        assert 0 <= call.kwargs["countdown"] <= longest


def test_the_bank_says_when(bank, retry):
    bank.failures, bank.retry_after = 1, 3
    assert rate_request.apply(("USD",)).get() == 1.16
    assert retry.call_args.kwargs["countdown"] == 3


def test_an_unknown_currency_is_asked_for_once(bank):
    assert rate_request.apply(("XXX",)).state == "FAILURE"
    assert bank.asked == 1


def test_an_unknown_currency_reaches_the_caller(bank, worker):
    with pytest.raises(UnknownCurrency, match="XXX"):
        rate_request.delay("XXX").get(timeout=5, interval=0.01)


def test_a_busy_bank_reaches_the_caller(bank, worker, monkeypatch):
    monkeypatch.setattr(rate_request, "max_retries", 0)
    bank.failures, bank.retry_after = 1, 3
    with pytest.raises(BankBusy) as caught:
        rate_request.delay("USD").get(timeout=5, interval=0.01)
    assert caught.value.seconds == 3
