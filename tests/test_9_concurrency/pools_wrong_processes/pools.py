"""The options of a worker for each kind of task."""

WAITING = "-P prefork -c 12"
HANGING = "-c 2"
SPLITTING = "-P solo"
