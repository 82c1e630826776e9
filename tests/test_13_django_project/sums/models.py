"""What is kept in the database."""

from uuid import uuid4

from django.db import models


class Sum(models.Model):
    """A sum that somebody asked for; its id is its task's, too."""

    id = models.UUIDField(primary_key=True, default=uuid4)
    numbers = models.JSONField()
    asked = models.DateTimeField(auto_now_add=True, db_index=True)
