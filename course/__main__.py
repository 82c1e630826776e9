"""The commands of the course, which the Makefile calls: python -m course COMMAND --help."""

import argparse
import signal

# Each command imports what it needs, because a worker's start must not wait for the rest.


def run_worker(arguments):
    from course.worker import run_worker

    run_worker(arguments.number, arguments.options)


def run_containers(arguments):
    from course.worker import run_containers

    run_containers(arguments.number)


def run_shell(arguments):
    from course.shell import run_shell

    run_shell(arguments.number, arguments.options)


def run_program(arguments):
    from course.program import run_program

    run_program(arguments.number, arguments.options)


def start_attempt(arguments):
    from course.attempt import start

    start(arguments.number)


def find_attempt(arguments):
    from course.attempt import find_new_folder
    from course.chapters import find_folder

    if arguments.options:
        find_new_folder(arguments.number)
    else:
        find_folder(arguments.number, "my")


def show_diff(arguments):
    from course.attempt import diff

    diff(arguments.number, *arguments.options)


def check(arguments):
    from course.check import main

    signal.signal(signal.SIGINT, signal.default_int_handler)
    main(arguments.number, *arguments.options)


def run_steps(arguments):
    from course.steps import run_steps

    run_steps(arguments.number, *arguments.options)


def change(arguments):
    from course.change import change

    change(arguments.number, *arguments.options)


def undo(arguments):
    from course.change import undo

    undo(arguments.number)


def show_progress(arguments):
    from course.progress import main

    main()


def show_messages(arguments):
    from course.messages import main

    signal.signal(signal.SIGINT, signal.default_int_handler)
    main(*arguments.options)


def start_server(arguments):
    from course.server import start_server

    print(start_server())


def stop_servers(arguments):
    from course.server import stop_servers

    stop_servers()


def show_logs(arguments):
    from course.containers import show_logs

    show_logs(*arguments.options)


def remove_containers(arguments):
    from course.containers import remove_containers

    remove_containers(*arguments.options)


def suggest(arguments):
    from course.suggest import suggest_target, suggest_variable

    if arguments.kind == "target":
        suggest_target(arguments.name, arguments.known)
    else:
        suggest_variable(arguments.name, arguments.known)


def make_parser():
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(prog="python -m course", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name, function, text, number=False, options=None):
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(function=function, takes_options=bool(options), options=[])
        if number:
            command.add_argument("number", help="the chapter's number")
        if number and options:
            command.add_argument("options", nargs=argparse.REMAINDER, help=options)
        elif options:
            command.epilog = f"Takes {options}."
        return command

    celery = "options of celery worker"
    add("worker", run_worker, "start Redis and the chapter's worker", True, celery)
    add("up", run_containers, "start Redis and the chapter's workers in containers", True)
    add("shell", run_shell, "open Python in the chapter's folder", True, "options of python")
    words = "the program and its options"
    add("run", run_program, "run one of the stack's programs in the folder", True, words)
    add("start", start_attempt, "copy the previous chapter into a folder of the learner's", True)
    words = "new, or nothing"
    add("attempt", find_attempt, "exit unless the attempt is there, or can be new", True, words)
    git = "options of git diff"
    add("diff", show_diff, "show what changed since the previous chapter, or in DIR", True, git)
    add("change", change, "make a change of the lesson", True, "its number, or list them all")
    add("undo", undo, "take the lesson's changes back", True)
    add("progress", show_progress, "show which chapters are done")
    add("check", check, "check an attempt step by step", True, "hint or watch, or neither")
    add("steps", run_steps, "run the steps of a chapter and report on a pipe", True, "the pipe")
    add("messages", show_messages, "show what travels through Redis", options="a URL of a server")
    add("redis", start_server, "start Redis if none answers")
    add("stop", stop_servers, "stop the servers that were started here")
    compose = "options of compose"
    add("logs", show_logs, "show the log of the workers in containers", options=compose)
    add("down", remove_containers, "remove the containers", options=compose)
    command = add("suggest", suggest, "name what a misspelt target or variable should be")
    command.add_argument("kind", choices=("target", "variable"))
    command.add_argument("name", help="what was typed")
    command.add_argument("known", nargs="+", help="the names that there are")
    return parser


def main():
    # Ctrl-C ends a command at once, without a traceback, until another program takes over.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parser = make_parser()
    arguments, rest = parser.parse_known_args()
    if rest and not arguments.takes_options:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    # Options that begin with a dash, for a command without a number.
    arguments.options += rest
    arguments.function(arguments)


if __name__ == "__main__":
    main()
