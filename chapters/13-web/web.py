"""The web page of the app: `uvicorn web:app`, beside a worker."""

from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated
from uuid import uuid4

from celery.result import denied_join_result
from fastapi import FastAPI, HTTPException, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from kombu.exceptions import OperationalError
from pydantic import Field
from redis.exceptions import RedisError

from libs import sums
from tasks import xsum_request
from tasks.celery import app as celery

# Somebody is waiting, so give up on Redis within two seconds. A worker keeps the defaults, and
# waits until Redis is back.
celery.conf.task_publish_retry = False
celery.conf.broker_transport_options |= {"max_retries": 0, "socket_timeout": 1}
celery.conf.redis_socket_timeout = 1

Number = Annotated[float, Field(ge=-1e15, le=1e15)]
Numbers = Annotated[list[Number], Field(min_length=1, max_length=1000)]


@asynccontextmanager
async def lifespan(_):
    """Keep `get` from being called here, and Celery from subscribing to results for it."""
    with denied_join_result():
        yield


app = FastAPI(lifespan=lifespan, openapi_url=None)


@app.exception_handler(RequestValidationError)
def refused(request, error):
    """Answer with what is wrong, as a sentence."""
    first = error.errors()[0]
    return JSONResponse({"detail": f"{str(first['input'])[:30]}: {first['msg']}."}, 422)


@app.exception_handler(OperationalError)
@app.exception_handler(RedisError)
def unreachable(request, error):
    """Answer that Redis is down, as broker or as result backend."""
    detail = "The queue can't be reached at the moment. Please try again."
    return JSONResponse({"detail": detail}, 503, {"Retry-After": "5"})


@app.get("/")
def page():
    """Answer with the page, which sends sums and asks how far they are."""
    return FileResponse(Path(__file__).with_name("page.html"))


@app.post("/sums", status_code=202)
def send(numbers: Numbers, response: Response):
    """Keep a sum, send it to the workers, and answer with its id at once."""
    id = str(uuid4())
    sums.keep(id, numbers)
    xsum_request.apply_async((numbers,), task_id=id, expires=celery.conf.result_expires)
    response.headers["Location"] = f"/sums/{id}"
    return {"id": id}


@app.get("/sums/{id}")
def tell(id: str):
    """Tell how far a sum is."""
    age = sums.age(id)
    if age is None:
        raise HTTPException(404, "There is no such sum.")
    # One look: `state` and `result` of an AsyncResult would be two, and the sum may finish between
    # them.
    found = celery.backend.get_task_meta(id)
    if found["status"] == "PENDING" and age > celery.conf.result_expires:
        raise HTTPException(410, "This sum has expired. Please send it again.")
    told = {"state": found["status"]}
    if found["status"] in ("PROGRESS", "SUCCESS"):
        told["result"] = found["result"]
    return told
