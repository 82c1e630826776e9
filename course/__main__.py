"""The commands of the course, which the Makefile calls: python -m course COMMAND --help."""

import argparse
import importlib
import signal


def make_parser():
    """Return the parser of all commands.

    A command names its function, whose module alone is imported: a worker's start must not wait for
    the rest. The function gets the chapter's number, if the command has one, and the options.
    """
    parser = argparse.ArgumentParser(prog="python -m course", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name, function, text, number=False, options=""):
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(function=function, number=[], options=[], takes_options=options)
        if number:
            command.add_argument("number", nargs=1, help="the chapter's number")
        if number and options:
            command.add_argument("options", nargs=argparse.REMAINDER, help=options)
        elif options:
            command.epilog = f"Takes {options}."

    celery = "options of celery worker"
    add("worker", "worker.run_worker", "start Redis and the chapter's worker", True, celery)
    text = "start Redis and the chapter's workers in containers"
    add("up", "worker.run_containers", text, True)
    text = "open Python in the chapter's folder"
    add("shell", "shell.run_shell", text, True, "options of python")
    text = "run one of the stack's programs in the folder"
    add("run", "program.run_program", text, True, "the program and its options")
    text = "copy the previous chapter into a folder of the learner's"
    add("start", "attempt.start", text, True)
    text = "exit unless the attempt is there, or can be new"
    add("attempt", "attempt.require_attempt", text, True, "new, or nothing")
    text = "show what changed since the previous chapter, or in DIR"
    add("diff", "attempt.diff", text, True, "options of git diff")
    text = "make a change of the lesson"
    add("change", "change.change", text, True, "its number, or list them all")
    add("undo", "change.undo", "take the lesson's changes back", True)
    add("progress", "progress.main", "show which chapters are done")
    text = "check an attempt step by step"
    add("check", "check.main", text, True, "hint or watch, or neither")
    text = "run the steps of a chapter and report on a pipe"
    add("steps", "steps.run_steps", text, True, "the pipe")
    text = "show what travels through Redis"
    add("messages", "messages.main", text, options="a URL of a server")
    add("redis", "server.start_server", "start Redis if none answers")
    add("stop", "server.stop_servers", "stop the servers that were started here")
    compose = "options of compose"
    text = "show the log of the workers in containers"
    add("logs", "containers.show_logs", text, options=compose)
    add("down", "containers.remove_containers", "remove the containers", options=compose)
    text = "name what a misspelt target or variable should be"
    words = "target or variable, what was typed, and the names that there are"
    add("suggest", "suggest.suggest", text, options=words)
    return parser


def main():
    # Ctrl-C ends a command at once, without a traceback, until another program takes over.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parser = make_parser()
    arguments, rest = parser.parse_known_args()
    if rest and not arguments.takes_options:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    module, _, name = arguments.function.partition(".")
    function = getattr(importlib.import_module(f"course.{module}"), name)
    # The rest are options of a command without a number.
    function(*arguments.number, *arguments.options, *rest)


if __name__ == "__main__":
    main()
