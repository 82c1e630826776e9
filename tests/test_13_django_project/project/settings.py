"""Django's settings. Those that begin with CELERY_ are the Celery app's, too."""

SECRET_KEY = "only for trying this on your own machine"
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "project.urls"
INSTALLED_APPS = ["sums"]
MIDDLEWARE = [
    "django.middleware.csrf.CsrfViewMiddleware",
    "project.middleware.RedisMiddleware",
]
DATA_UPLOAD_MAX_MEMORY_SIZE = 100_000  # bytes of a request's body
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "UTC"

CELERY_BROKER_URL = "redis://127.0.0.1:6379/0"
CELERY_RESULT_BACKEND = "redis://127.0.0.1:6379/0"
CELERY_RESULT_EXPIRES = 3600
