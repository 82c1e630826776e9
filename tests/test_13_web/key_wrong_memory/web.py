"""The keys are in the memory of one process."""

from contextlib import asynccontextmanager
from typing import Annotated
from uuid import uuid4

from celery.result import denied_join_result
from fastapi import FastAPI, Header, Response
from fastapi.responses import JSONResponse
from kombu.exceptions import OperationalError

from tasks import xsum_request
from tasks.celery import app as celery

celery.conf.task_publish_retry = False
celery.conf.broker_transport_options |= {"max_retries": 0, "socket_timeout": 1}


@asynccontextmanager
async def lifespan(_):
    with denied_join_result():
        yield


app = FastAPI(lifespan=lifespan)
ids = {}


@app.exception_handler(OperationalError)
def apologize(request, error):
    return JSONResponse({"detail": "Redis is down."}, 503)


@app.post("/sums", status_code=202)
def send(
    numbers: list[float],
    response: Response,
    idempotency_key: Annotated[str | None, Header()] = None,
):
    if idempotency_key in ids:
        id = ids[idempotency_key]
    else:
        id = str(uuid4())
        xsum_request.apply_async((numbers,), task_id=id)
        if idempotency_key:
            ids[idempotency_key] = id
    response.headers["Location"] = f"/sums/{id}"
    return {"id": id}
