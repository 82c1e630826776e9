"""The commands of the course, as the Makefile calls them: python -m course COMMAND --help."""

import argparse
import signal

# Every command ends at Ctrl-C at once and without a traceback, until a program of its own takes over.
signal.signal(signal.SIGINT, signal.SIG_DFL)


def worker(number, options):
    from course.worker import main

    main(number, *options)


def run(number, options):
    from course.program import run

    run(number, *options)


def start(number, options):
    from course.attempt import start

    start(number)


def diff(number, options):
    from course.attempt import diff

    diff(number, *options)


def check(number, options):
    from course.check import main

    signal.signal(signal.SIGINT, signal.default_int_handler)
    main(number, *options)


def steps(number, options):
    from course.steps import run_steps

    run_steps(number, *options)


def change(number, options):
    from course.change import change

    change(number, *options)


def undo(number, options):
    from course.change import undo

    undo(number)


def progress(options):
    from course.progress import main

    main()


def messages(options):
    from course.messages import main

    signal.signal(signal.SIGINT, signal.default_int_handler)
    main(*options)


def redis(options):
    from course.server import start

    print(start())


def stop(options):
    from course.server import stop

    stop()


def logs(options):
    from course.containers import logs

    logs(*options)


def down(options):
    from course.containers import down

    down(*options)


# The commands about one chapter, and those about none.
OF_A_CHAPTER = {
    "worker": (worker, "start Redis and the chapter's worker, with options of celery worker"),
    "run": (run, "run one of the stack's programs in the chapter's folder"),
    "start": (start, "copy the previous chapter into a folder of the learner's"),
    "diff": (
        diff,
        "show what changed since the previous chapter, or in DIR, with options of git diff",
    ),
    "change": (change, "make the change of the lesson with this number, or list its changes"),
    "undo": (undo, "take the lesson's changes back"),
    "check": (check, "check an attempt step by step: hint, watch"),
    "steps": (steps, "run the steps of a chapter and report on a pipe"),
}
OF_NONE = {
    "progress": (progress, "show which chapters are done"),
    "messages": (messages, "show what travels through Redis, or through the server with this URL"),
    "redis": (redis, "start Redis if none answers"),
    "stop": (stop, "stop the servers that were started here"),
    "logs": (logs, "show the log of the workers in containers, with options of compose"),
    "down": (down, "remove the containers, with options of compose"),
}


def main():
    parser = argparse.ArgumentParser(prog="python -m course", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, text) in (OF_A_CHAPTER | OF_NONE).items():
        command = commands.add_parser(
            name, help=text, description=text, prefix_chars="\0", add_help=False
        )
        if name in OF_A_CHAPTER:
            command.add_argument("number")
        command.add_argument("options", nargs="*")
    arguments = parser.parse_args()
    if arguments.command in OF_A_CHAPTER:
        OF_A_CHAPTER[arguments.command][0](arguments.number, arguments.options)
    else:
        OF_NONE[arguments.command][0](arguments.options)


if __name__ == "__main__":
    main()
