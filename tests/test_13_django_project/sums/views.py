"""The same as web.py, in Django."""

import json
from functools import partial

from celery import current_app
from django.db import transaction
from django.http import JsonResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.csrf import csrf_exempt

from sums.models import Sum
from sums.tasks import add_up


@csrf_exempt
def send(request):
    """Keep a sum, and send it once it is committed; answer with its id at once."""
    with transaction.atomic():
        kept = Sum.objects.create(numbers=json.loads(request.body))
        id = str(kept.id)
        transaction.on_commit(partial(add_up.apply_async, (id,), task_id=id))
    return JsonResponse({"id": id}, status=202, headers={"Location": f"/sums/{id}"})


def tell(request, id):
    """Tell how far a sum is."""
    kept = get_object_or_404(Sum, pk=id)
    found = current_app.backend.get_task_meta(str(kept.id))
    told = {"state": found["status"]}
    if found["status"] == "SUCCESS":
        told["result"] = found["result"]
    return JsonResponse(told)
