"""What only the web server needs of Redis. A worker, for which nobody waits, doesn't load it."""

from celery.result import denied_join_result
from django.http import JsonResponse
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from project.celery import app


class RedisMiddleware:
    """Give up on Redis after a second, and answer 503 then."""

    def __init__(self, get_response):
        self.get_response = get_response
        app.conf.task_publish_retry = False
        app.conf.broker_transport_options = {"max_retries": 0, "socket_timeout": 1}
        app.conf.redis_socket_timeout = 1
        # This process calls no `get` as long as it lives.
        self.without_get = denied_join_result()
        self.without_get.__enter__()

    def __call__(self, request):
        return self.get_response(request)

    def process_exception(self, request, error):
        """Answer 503 when Redis can't be reached, as broker or as result backend."""
        if isinstance(error, OperationalError | RedisError):
            detail = "The queue can't be reached at the moment. Please try again."
            return JsonResponse({"detail": detail}, status=503, headers={"Retry-After": "5"})
        return None
