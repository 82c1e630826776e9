from libs import ledger
from tasks import interest_request


def test_interest_is_for_today():
    ledger.enter("pay", 1000)
    assert interest_request(0.01) == 1010.0
    assert interest_request(0.01) == 1010.0
