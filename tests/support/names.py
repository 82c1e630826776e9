"""The names that several suites share: the chapters' tasks, and the options of a worker."""

ADD = "tasks.math.add_request"
XSUM = "tasks.math.xsum_request"
MATH_TASKS = [
    ADD,
    "tasks.math.sub_request",
    "tasks.math.mul_request",
    "tasks.math.divide_request",
    XSUM,
]
RATE = "tasks.rates.rate_request"
ENTER = "tasks.ledger.enter_request"
INTEREST = "tasks.ledger.interest_request"

# A worker that doesn't ask for a second, when it starts, whether there are other workers.
ALONE = ["--without-mingle", "--without-gossip"]
