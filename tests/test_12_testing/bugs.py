"""The bugs that a learner's tests should catch. Each function plants one in the imported app.

Its docstring says what the bug is, and how a test notices it. Functions are changed in place,
because tests have imported them already.
"""

import contextlib
import itertools
import os
import sqlite3
import tempfile
from datetime import date, timedelta
from fractions import Fraction
from types import FunctionType
from unittest.mock import patch
from urllib.error import HTTPError

from celery.exceptions import Retry
from celery.schedules import crontab

import celeryconfig
import tasks
from libs import ledger, math, rates
from tasks.celery import app

# Once, and not in each run. A learner's tests find the app as they would otherwise.
app.finalize()


def call_new(*args, _new, **kwargs):
    return _new(*args, **kwargs)


def replace(function, new):
    """Let a function do what another one does; return a copy that does what it did."""
    old = FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    old.__kwdefaults__ = function.__kwdefaults__
    function.__code__ = call_new.__code__.replace(co_freevars=function.__code__.co_freevars)
    function.__defaults__ = None
    function.__kwdefaults__ = {"_new": new}
    return old


def replace_run(task, run):
    """Let a task do what a function does, inside of its automatic retries if it has them."""
    if hasattr(task, "_orig_run"):
        task._orig_run = run
    else:
        task.run = run


def change_settings(**settings):
    for name, value in settings.items():
        setattr(celeryconfig, name, value)
    app.conf.update(settings)


# The functions


def sub():
    """with libs.math.sub(x, y) returning y - x: compare sub(9, 2) with 7"""
    replace(math.sub, lambda x, y: y - x)


def divide():
    """with libs.math.divide(x, y) rounding down: divide numbers that leave a remainder"""
    replace(math.divide, lambda x, y: x // y * 1.0)


def report():
    """with libs.math.xsum never calling its report: give xsum a function, and compare what it was
    called with"""
    replace(math.xsum, lambda numbers, report=None: sum(numbers))


def key():
    """without the ledger's PRIMARY KEY: enter the same key twice, and compare the balance"""
    count = itertools.count()

    def enter_again(key, amount):
        return enter(f"{key} {next(count)}", amount)

    enter = replace(ledger.enter, enter_again)


def ignore():
    """with INSERT instead of INSERT OR IGNORE: enter the same key twice"""
    known = set()

    def enter_or_fail(key, amount):
        if (os.getcwd(), key) in known:
            raise sqlite3.IntegrityError("UNIQUE constraint failed: entries.key")
        known.add((os.getcwd(), key))
        return enter(key, amount)

    enter = replace(ledger.enter, enter_or_fail)


def commit():
    """with libs.ledger.enter never committing: enter two keys, and compare the second balance"""

    def enter_elsewhere(key, amount):
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            return enter(key, amount)

    enter = replace(ledger.enter, enter_elsewhere)


def twice():
    """with pay_interest paying each time it is called: pay the same day's interest twice, and
    compare the balance"""
    count = itertools.count()

    def pay_again(day, rate):
        return pay(f"{day} {next(count)}", rate)

    pay = replace(ledger.pay_interest, pay_again)


def day():
    """with a key for pay_interest that lacks the day: pay the interest of two days, and compare the
    balance"""
    pay = replace(ledger.pay_interest, lambda day, rate: pay("", rate))


# The tasks


def swapped():
    """with sub_request passing its numbers on in the wrong order: compare sub_request(9, 2) with
    7"""
    run = tasks.sub_request.run
    tasks.sub_request.run = lambda x, y: run(y, x)


def returns():
    """without the return in mul_request: compare mul_request(9, 2) with 18"""
    run = tasks.mul_request.run

    def forget(x, y):
        run(x, y)

    tasks.mul_request.run = forget


def copied():
    """with mul_request calling math.add, as it was copied: compare mul_request(9, 2) with 18"""
    tasks.mul_request.run = tasks.add_request.run


def directly():
    """with xsum_request calling update_state when it is called as a function: call xsum_request as
    a function"""

    def report(numbers):
        meta = {"done": len(numbers), "of": len(numbers)}
        tasks.xsum_request.update_state(state="PROGRESS", meta=meta)
        return sum(numbers)

    tasks.xsum_request.run = report


def progress():
    """with xsum_request never calling update_state: replace xsum_request.update_state by a Mock,
    and look at what apply called it with"""
    tasks.xsum_request.run = lambda numbers: sum(numbers)


# The bank


def retries():
    """with rate_request never tried again: let the bank fail, and apply the task"""
    tasks.rate_request.max_retries = 0
    tasks.rate_request.run = lambda currency: rates.rate(currency)


def once():
    """with rate_request tried again only once: let the bank fail twice, and apply the task"""

    def run(currency):
        try:
            return rates.rate(currency)
        except rates.BankError as error:
            raise tasks.rate_request.retry(exc=error, countdown=1, max_retries=1) from error

    tasks.rate_request.max_retries = 1
    tasks.rate_request.run = run


def every():
    """with rate_request tried again after every error: apply the task to a currency that the bank
    doesn't know, and look at bank.asked"""
    run = tasks.rate_request.run

    def run_again(currency):
        try:
            return run(currency)
        except Retry:
            raise
        except Exception as error:
            raise tasks.rate_request.retry(exc=error, countdown=1) from error

    tasks.rate_request.run = run_again


def pauses():
    """with three minutes before each retry, which is Celery's default: let the bank fail, and look
    at the countdown that retry was called with"""

    def run(currency):
        try:
            return rates.rate(currency)
        except rates.BankBusy as error:
            raise tasks.rate_request.retry(exc=error, countdown=error.seconds) from error
        except rates.BankError as error:
            delay = tasks.rate_request.default_retry_delay  # passed on, as backoff would do
            raise tasks.rate_request.retry(exc=error, countdown=delay) from error

    tasks.rate_request.retry_backoff = False
    tasks.rate_request.run = run


def when():
    """with rate_request ignoring the bank's Retry-After: set bank.retry_after, and look at the
    countdown that retry was called with"""
    replace_run(tasks.rate_request, lambda currency: rates.rate(currency))


def rebuilt():
    """with a BankBusy that passes on another text than its seconds: let it travel through a worker,
    and look at its seconds"""

    def init(self, seconds):
        super(rates.BankBusy, self).__init__(f"come back in {seconds} s")
        self.seconds = seconds

    rates.BankBusy.__init__ = init


# Messages and settings


def fraction():
    """with libs.math.divide returning a Fraction: send divide_request to a worker, since JSON can't
    carry that"""
    replace(math.divide, lambda x, y: Fraction(x, y))


def pickle():
    """with messages in pickle instead of JSON: send a set, and expect EncodeError"""
    change_settings(
        task_serializer="pickle", result_serializer="pickle", accept_content=["json", "pickle"]
    )
    for task in app.tasks.values():
        task.serializer = "pickle"


def route():
    """with a route for tasks.leger.*: ask app.amqp.router for the queue of enter_request"""
    change_settings(task_routes={"tasks.leger.*": {"queue": "ledger"}})
    app.amqp.flush_routes()
    app.amqp.router = app.amqp.Router()


def time_of_day():
    """with crontab(hour=4), which is every minute of that hour: compare the entry's schedule with
    crontab(hour=4, minute=0)"""
    for entry in app.conf.beat_schedule.values():
        entry["schedule"] = crontab(hour=4)


def beat():
    """with beat sending tasks.ledger.interest, which is no task: look the entry's task up in
    app.tasks"""
    for entry in app.conf.beat_schedule.values():
        entry["task"] = "tasks.ledger.interest"


# For the star steps


def yesterday():
    """with interest_request paying for yesterday: compare the day that libs.ledger.pay_interest
    gets with the day on which the task runs"""
    run = getattr(tasks.interest_request, "_orig_run", tasks.interest_request.run)

    def run_late(rate):
        pay_interest = ledger.pay_interest

        def pay_for_yesterday(day, rate):
            yesterday = date.fromisoformat(day) - timedelta(days=1)
            return pay_interest(yesterday.isoformat(), rate)

        with patch.object(ledger, "pay_interest", pay_for_yesterday):
            return run(rate)

    replace_run(tasks.interest_request, run_late)


def refused():
    """with a refused connection that isn't a BankError: ask a port where no bank listens"""

    def rate_or_refusal(currency):
        try:
            return rate(currency)
        except rates.BankError as error:
            cause = error.__context__
            if isinstance(cause, OSError) and not isinstance(cause, HTTPError):
                raise cause from None
            raise

    rate = replace(rates.rate, rate_or_refusal)
