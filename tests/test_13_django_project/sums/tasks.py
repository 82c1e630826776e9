"""Tasks, which autodiscover_tasks() finds, because they are in a tasks.py of an installed app."""

from celery import shared_task

from sums.models import Sum


@shared_task
def add_up(id):
    """Return the sum of the numbers that are kept under an id."""
    return sum(Sum.objects.get(pk=id).numbers)
