"""What the course uses of Celery beyond its public interface; checked on Celery 5.1.2 and 5.7.0."""

import kombu.pools


def forget_connections(app):
    """Let an app open new connections, as it does after a fork."""
    kombu.pools.reset()
    app._after_fork()
