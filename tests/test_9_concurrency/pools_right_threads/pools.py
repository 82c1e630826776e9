"""The options of a worker for each kind of task."""

WAITING = "-P threads -c 24"
HANGING = "-c 2"
SPLITTING = "-P threads -c 2"
