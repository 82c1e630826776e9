"""The options of a worker for each kind of task."""

WAITING = "-P threads -c 12"
HANGING = "-P threads -c 2"
SPLITTING = "-P solo"
