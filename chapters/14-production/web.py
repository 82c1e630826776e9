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

# Somebody is waiting, so this process gives up on Redis after a second. A worker, for which
# nobody waits, has the patience of celeryconfig.py.
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


app = FastAPI(lifespan=lifespan, openapi_url=None, max_body_size=100_000)


@app.exception_handler(RequestValidationError)
def refuse(request, error):
    """Answer 422 and a sentence that says what is wrong."""
    first = error.errors()[0]
    return JSONResponse({"detail": f"{str(first['input'])[:30]}: {first['msg']}."}, 422)


@app.exception_handler(OperationalError)
@app.exception_handler(RedisError)
def apologize(request, error):
    """Answer 503 when Redis can't be reached, as broker or as result backend."""
    detail = "The queue can't be reached at the moment. Please try again."
    return JSONResponse({"detail": detail}, 503, {"Retry-After": "5"})


@app.get("/")
def page():
    """Answer with the page, which sends sums and asks how far they have got."""
    return FileResponse(Path(__file__).with_name("page.html"))


@app.post("/sums", status_code=202)
def send(numbers: Numbers, response: Response):
    """Record a sum, send it to the workers, and answer with its id at once."""
    id = str(uuid4())
    sums.keep(id, numbers)
    xsum_request.apply_async((numbers,), task_id=id, expires=celery.conf.result_expires)
    response.headers["Location"] = f"/sums/{id}"
    return {"id": id}


@app.get("/sums/{id}")
def tell(id: str):
    """Answer how far a sum has got."""
    age = sums.age(id)
    if age is None:
        raise HTTPException(404, "There is no such sum.")
    # One look at Redis. With an AsyncResult, `state` and `result` would be two, and the sum could
    # finish between them.
    found = celery.backend.get_task_meta(id)
    if found["status"] == "PENDING" and age > celery.conf.result_expires:
        raise HTTPException(410, "This sum has expired. Please send it again.")
    answer = {"state": found["status"]}
    if found["status"] in ("PROGRESS", "SUCCESS"):
        answer["result"] = found["result"]
    return answer
