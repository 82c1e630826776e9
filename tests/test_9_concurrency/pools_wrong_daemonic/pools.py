"""The options of a worker for each kind of task."""

WAITING = "-P threads -c 12"
HANGING = "-c 2"
SPLITTING = "-c 2"
