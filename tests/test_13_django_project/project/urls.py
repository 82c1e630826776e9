"""Which view answers which path."""

from django.urls import path
from sums import views

urlpatterns = [path("sums", views.send), path("sums/<uuid:id>", views.tell)]
