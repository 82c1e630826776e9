"""The same as web.py, in Django."""

import json
from datetime import timedelta
from functools import partial

from celery import current_app
from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.db import transaction
from django.http import JsonResponse
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST, require_safe

from sums.models import Sum
from sums.tasks import add_up

KEPT = timedelta(days=1)


def refuse(status, detail):
    """Return a response that says why a request is refused."""
    return JsonResponse({"detail": detail}, status=status)


def not_found(request, exception):
    """Answer 404 where no path matches, such as an id that is no UUID."""
    return refuse(404, "There is nothing here.")


def is_foreign(request):
    """Return whether a browser sends this for a page of another site."""
    origin = request.headers.get("Origin")
    return origin is not None and origin != f"{request.scheme}://{request.get_host()}"


def read_numbers(request):
    """Return the numbers that a request sends; raise ValueError with a sentence otherwise."""
    try:
        numbers = json.loads(request.body)
    except (ValueError, RecursionError):
        raise ValueError("This isn't JSON.") from None
    if not isinstance(numbers, list) or not 1 <= len(numbers) <= 1000:
        raise ValueError("This should be a list of 1 to 1000 numbers.")
    for number in numbers:
        if type(number) not in (int, float) or not -1e15 <= number <= 1e15:
            raise ValueError(f"{str(number)[:30]}: this should be a number from -1e15 to 1e15.")
    return numbers


@csrf_exempt  # a script has no token to send; a page of another site is refused below
@require_POST
def send(request):
    """Record a sum, and send it once it is committed; answer with its id at once."""
    if is_foreign(request):
        return refuse(403, "A page of another site can't send sums.")
    try:
        numbers = read_numbers(request)
    except RequestDataTooBig:
        return refuse(413, "That is too long for a sum.")
    except ValueError as error:
        return refuse(422, str(error))
    with transaction.atomic():
        Sum.objects.filter(asked__lt=timezone.now() - KEPT).delete()
        id = str(Sum.objects.create(numbers=numbers).id)
        expires = settings.CELERY_RESULT_EXPIRES
        transaction.on_commit(partial(add_up.apply_async, (id,), task_id=id, expires=expires))
    return JsonResponse({"id": id}, status=202, headers={"Location": f"/sums/{id}"})


@require_safe
def tell(request, id):
    """Answer how far a sum has got."""
    kept = Sum.objects.filter(pk=id).first()
    if kept is None:
        return refuse(404, "There is no such sum.")
    found = current_app.backend.get_task_meta(str(id))
    age = timezone.now() - kept.asked
    if found["status"] == "PENDING" and age.total_seconds() > settings.CELERY_RESULT_EXPIRES:
        return refuse(410, "This sum has expired. Please send it again.")
    answer = {"state": found["status"]}
    if found["status"] == "SUCCESS":
        answer["result"] = found["result"]
    return JsonResponse(answer)
