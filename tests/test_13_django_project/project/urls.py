"""Which view answers which path."""

from django.urls import path
from sums import views

handler404 = views.not_found
urlpatterns = [path("sums", views.send), path("sums/<uuid:id>", views.tell)]
