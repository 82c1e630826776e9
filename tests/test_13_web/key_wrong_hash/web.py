"""The id follows from Python's hash of the key, which is another one in each process."""

from contextlib import asynccontextmanager
from typing import Annotated
from uuid import UUID, uuid4

from celery.result import denied_join_result
from fastapi import FastAPI, Header, Response
from fastapi.responses import JSONResponse
from kombu.exceptions import OperationalError

from libs import sums
from tasks import xsum_request
from tasks.celery import app as celery

celery.conf.task_publish_retry = False
celery.conf.broker_transport_options |= {"max_retries": 0, "socket_timeout": 1}


@asynccontextmanager
async def lifespan(_):
    with denied_join_result():
        yield


app = FastAPI(lifespan=lifespan)


@app.exception_handler(OperationalError)
def apologize(request, error):
    return JSONResponse({"detail": "Redis is down."}, 503)


@app.post("/sums", status_code=202)
def send(
    numbers: list[float],
    response: Response,
    idempotency_key: Annotated[str | None, Header()] = None,
):
    id = str(uuid4())
    if idempotency_key:
        id = str(UUID(int=abs(hash(idempotency_key))))
    if sums.age(id) is None:
        sums.keep(id, numbers)
        try:
            xsum_request.apply_async((numbers,), task_id=id)
        except OperationalError:
            sums.remove(id)
            raise
    response.headers["Location"] = f"/sums/{id}"
    return {"id": id}
