"""Arguments, options and help of the command."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from allgone.cli import OWN_FAILURE, durations, say

if TYPE_CHECKING:
    from allgone._core.limits import Limits

_RUN_EXAMPLES = """\b
Examples:
  allgone run -- make test
  allgone run --timeout 10m -- ./integration-tests
  allgone run --backend cgroup --report report.json -- ./start-everything
  allgone run --usage -- make -j4
  allgone run --memory-max 2G --tasks-max 500 --cpu-quota 150% -- make -j4
  allgone run --trace --report report.html -- make -j4
  allgone run --unit ci-job.scope --property MemoryMax=2G -- make test
  allgone run --kill-signal INT --timeout-stop 30s -- npm start
  allgone run -- bash

\b
Exit status:
  the command's own; if a signal ended it, allgone ends by the same one (128+N)
  124  --timeout    125  allgone itself failed
  126  the command could not be executed    127  it was not found

\b
Durations: 10m, 1h30m, 250ms, 5 (seconds), infinity.

SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2 and SIGWINCH are passed on to the command. If it has not ended
--timeout-stop after SIGTERM, or at a second SIGTERM or SIGINT, everything is stopped. Ctrl-C and Ctrl-Z reach the
command from the terminal itself, as if allgone were not there.
"""
_UP_EXAMPLES = """\b
Examples:
  allgone up                           every process that ./Procfile names
  allgone up web worker                these only
  allgone up -c worker=3 -q worker     three of a kind, and what they write is not shown
  allgone up -d ../shop -e .env,.env.dev --backend cgroup

\b
Exit status:
  that of the process that ended first, 128+N if signal N ended it
  128+N  signal N ended "allgone up" itself    141  nobody reads its output any more
  125    allgone itself failed; wrong usage; the Procfile can't be read

Options are Honcho's. SIGINT, SIGTERM, SIGHUP and SIGQUIT stop everything; a second one kills what is left.
"""
_EPILOG = """\b
Examples:
  allgone run -- make test              when it ends, nothing that it started is left
  allgone run --timeout 10m -- ./tests  nor when it takes too long
  allgone up                            run the app that ./Procfile describes, as Honcho does
  allgone ps --tree                     what runs in which containment
  allgone gc                            remove what killed supervisors have left
  allgone doctor                        what this machine can do
"""
_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def _duration(_: click.Context, param: click.Parameter, value: str) -> float:
    try:
        return durations.seconds(value)
    except ValueError as e:
        raise click.BadParameter(str(e), param=param) from None


def _time_limit(context: click.Context, param: click.Parameter, value: str) -> float:
    found = _duration(context, param, value)
    if found > 0:
        return found
    raise click.BadParameter("0 would stop the command at once; infinity means no limit", param=param)


def _properties(_: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    for name, equals, _rest in pairs:
        if not name or not equals:
            raise click.BadParameter(f"{name!r} is not NAME=VALUE", param=param)
    return {name: value for name, _equals, value in pairs}


def _limits(options: dict[str, Any]) -> Limits | None:
    """Raises BadParameter."""
    from allgone._core.limits import Limits

    found = {name: options[name] for name in (*_LIMITS, "memory_oom_group") if options[name] not in (None, False)}
    try:
        return Limits(**found) if found else None
    except (ValueError, TypeError) as e:
        raise click.BadParameter(str(e)) from None


_LIMITS = {
    "memory_max": ("SIZE", "More memory than this (512M, 2G) it can't have: who asks for more is killed."),
    "memory_high": ("SIZE", "With more memory than this it is slowed down."),
    "memory_swap_max": ("SIZE", "More swap than this it can't have; 0: none."),
    "tasks_max": ("NUMBER", "More processes and threads than this it can't have at a time."),
    "cpu_quota": ("PERCENT", "CPU time, in per cent of one CPU (150%)."),
    "cpu_weight": ("NUMBER", "Share of the CPUs, from 1 to 10000; others have 100."),
    "io_weight": ("NUMBER", "The same of disks."),
}


def _limit_options(command: Callable[..., int]) -> Callable[..., int]:
    for name, (metavar, what) in reversed(_LIMITS.items()):
        kind = int if name.endswith("_weight") else str
        option = "--" + name.replace("_", "-")
        command = click.option(option, metavar=metavar, type=kind, help=f"With cgroup. {what}")(command)
    return command


def _signal(_: click.Context, param: click.Parameter, value: str) -> int:
    if value.isdecimal() and int(value) in signal.valid_signals():
        return int(value)
    name = value.upper() if value.upper().startswith("SIG") else "SIG" + value.upper()
    if name in signal.Signals.__members__:
        return int(signal.Signals[name])
    raise click.BadParameter(f"{value!r} is not a signal; write TERM, SIGTERM or 15, say", param=param)


@click.group(context_settings=_SETTINGS, epilog=_EPILOG)
@click.version_option(package_name="allgone", prog_name="allgone")
def allgone() -> None:
    """Start a process. When you stop it, all of it is gone."""


@allgone.command(
    short_help="Run a command; when it ends, so does everything that it started.",
    epilog=_RUN_EXAMPLES,
    context_settings={"allow_interspersed_args": False},
)
@click.option(
    "--backend",
    type=click.Choice(["auto", "cgroup", "process-group"]),
    help='What holds the processes (default: ALLGONE_BACKEND, or auto: cgroup where it works; see "allgone doctor").',
)
@click.option(
    "--timeout",
    metavar="DURATION",
    default="infinity",
    callback=_time_limit,
    help="Stop everything after this long; exit status 124.",
)
@click.option(
    "--timeout-stop",
    metavar="DURATION",
    default="10s",
    show_default=True,
    callback=_duration,
    help="How long processes may take to end when asked to, before SIGKILL.",
)
@click.option(
    "--kill-mode",
    type=click.Choice(["control-group", "mixed", "process"]),
    default="control-group",
    show_default=True,
    help="Who is asked to end: all; the command, the rest being killed when it has ended; or nobody but the command, "
    "the rest being left running.",
)
@click.option(
    "--kill-signal",
    metavar="SIGNAL",
    default="TERM",
    show_default=True,
    callback=_signal,
    help="How they are asked.",
)
@click.option("--send-sighup", is_flag=True, help="Send SIGHUP as well; shells want it.")
@click.option("--name", help="What the containment is called (default: made up from the command).")
@click.option("--unit", metavar="NAME.scope", help="Run in a systemd scope of this name.")
@click.option("--slice", metavar="NAME.slice", help="The slice that the scope is put in (default: ours).")
@click.option("--description", metavar="TEXT", help="What systemctl says of the scope.")
@click.option(
    "--property",
    "properties",
    metavar="NAME=VALUE",
    multiple=True,
    callback=_properties,
    help="A property of the scope, as in systemd.scope(5): MemoryMax=1G. May be given several times.",
)
@click.option(
    "--report",
    "reports",
    metavar="FILE",
    multiple=True,
    help="Write what was found and done to this file: FILE.html, .md (Markdown), .txt, else JSON. "
    "May be given several times. To $GITHUB_STEP_SUMMARY it is added.",
)
@click.option(
    "--trace", is_flag=True, help="Know every process, however short-lived, and what left the cgroup; root only."
)
@click.option(
    "--escapees",
    type=click.Choice(["kill", "warn", "ignore"]),
    default="warn",
    show_default=True,
    help="With --trace, what becomes of processes that left the cgroup.",
)
@click.option(
    "--sample",
    metavar="DURATION",
    callback=lambda *asked: None if asked[2] is None else _time_limit(*asked),
    help="With cgroup, have CPU and memory in the report, looked at this often.",
)
@click.option("--usage", is_flag=True, help="When all is over, print what was used to stderr, as time -v does.")
@_limit_options
@click.option("--memory-oom-group", is_flag=True, help="With cgroup. For want of memory, all of it is killed together.")
@click.option("--seal", is_flag=True, help="Keep a command that is root from leaving its cgroup by itself.")
@click.option(
    "--network",
    type=click.Choice(["private", "veth"]),
    help="A network of its own: loopback only, or with an address that is reached from here; root only.",
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- CMD [ARG]...")
def run(command: tuple[str, ...], **options: Any) -> int:
    """Run CMD. When it ends, or is stopped, everything that it started is stopped, too.

    It is in the foreground, with the same stdin, stdout and stderr. What it left behind is named on stderr.
    """
    from allgone._core.policy import StopPolicy
    from allgone.cli import job

    policy = StopPolicy(
        kill_mode=options["kill_mode"],
        kill_signal=options["kill_signal"],
        send_sighup=options["send_sighup"],
        timeout_stop=options["timeout_stop"],
    )
    limits = _limits(options)
    scope = {name: options[name] for name in ("unit", "slice", "description", "properties") if options[name]}
    return job.run(
        job.Job(
            command,
            policy,
            options["backend"],
            options["timeout"],
            options["name"],
            options["reports"],
            scope,
            {name: options[name] for name in ("trace", "escapees", "seal", "network", "sample")} | {"limits": limits},
            usage=options["usage"],
        )
    )


@allgone.command(
    short_help="Run the app that a Procfile describes, as Honcho does; when one process ends, all do.",
    epilog=_UP_EXAMPLES,
)
@click.option("-f", "--procfile", metavar="FILE", help="The Procfile, below DIR (default: PROCFILE, or Procfile).")
@click.option("-d", "--app-root", metavar="DIR", default=".", show_default=True, help="Where Procfile and .env are.")
@click.option("-e", "--env", metavar="FILE[,FILE]", help="Files with environment variables (default: .env).")
@click.option("-p", "--port", metavar="N", help="Of the first process; others count on (default: PORT, or 5000).")
@click.option("-c", "--concurrency", metavar="NAME=N,...", help="How many of each to start (default: 1).")
@click.option("-q", "--quiet", metavar="NAME,...", help="Those whose output is not shown.")
@click.option("--no-colour", is_flag=True, help="No colours.")
@click.option("--no-prefix", is_flag=True, help="No time and name before each line.")
@click.option(
    "--backend",
    type=click.Choice(["auto", "cgroup", "process-group"]),
    help='What holds the processes (default: ALLGONE_BACKEND, or auto: cgroup where it works; see "allgone doctor").',
)
@click.option(
    "--timeout-stop",
    metavar="DURATION",
    default="5s",
    show_default=True,
    callback=_duration,
    help="How long processes may take to end when asked to, before SIGKILL.",
)
@click.option(
    "--kill-mode",
    type=click.Choice(["control-group", "mixed"]),
    default="control-group",
    show_default=True,
    help="Who is asked to end: all; or those that the Procfile names, the rest being killed when they have ended.",
)
@click.option(
    "--kill-signal",
    metavar="SIGNAL",
    default="TERM",
    show_default=True,
    callback=_signal,
    help="How they are asked.",
)
@click.option("--name", help="What the containment is called (default: made up from DIR).")
@click.option("--report", "reports", metavar="FILE", multiple=True, help='Write a report, as "allgone run" does.')
@click.argument("names", nargs=-1, metavar="[NAME]...")
def up(names: tuple[str, ...], **options: Any) -> int:
    """Start the processes that a Procfile names, or those called NAME, and show what they write, line by line.

    When one has ended, or at Ctrl-C, everything is stopped, daemons that they have started too.
    """
    try:
        from allgone.cli import up as application
    except ImportError as e:
        raise click.ClickException(f"up needs honcho: pip install 'allgone[procfile]' ({e})") from e
    from allgone._core.policy import StopPolicy

    return application.run(
        application.Asked(
            names, **{each: options[each] for each in ("procfile", "app_root", "env", "port", "concurrency", "quiet")}
        ),
        StopPolicy(options["kill_mode"], options["kill_signal"], timeout_stop=options["timeout_stop"]),
        backend=options["backend"],
        name=options["name"],
        reports=options["reports"],
        colour=not options["no_colour"],
        prefix=not options["no_prefix"],
    )


@allgone.command(short_help="Tell what this machine can do, and what to do about what is missing.")
@click.option("--json", "as_json", is_flag=True, help="The same for programs.")
def doctor(as_json: bool) -> int:
    """Tell what this machine can do, which backend is taken and why, and what to do about what is missing.

    Exit status 0 if "auto" has a backend to take, else 1.
    """
    from allgone.cli import doctor as examination

    return examination.run(as_json=as_json)


@allgone.command(short_help="List every containment on this machine that you may see.")
@click.option("--json", "as_json", is_flag=True, help="The same for programs.")
@click.option("--tree", is_flag=True, help="Show the processes as well.")
def ps(as_json: bool, tree: bool) -> int:
    """List every containment on this machine that you may see, whoever made it.

    STATE is live; stale, if its supervisor and its guard are gone ("allgone gc" removes it); released, if a stop has
    left it running on purpose; freezing or frozen.
    """
    from allgone.cli import containments

    return containments.ps(as_json=as_json, tree=tree)


@allgone.command(short_help="Watch them live, with keys to stop, kill and freeze.")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option(
    "--interval",
    metavar="DURATION",
    default="1s",
    show_default=True,
    callback=_time_limit,
    help="How often to look.",
)
def top(names: tuple[str, ...], interval: float) -> int:
    """Watch all containments that you may see, or those called NAME: processes, CPU, memory, what they listen on.

    Keys: arrows choose one, s stops it as its supervisor would, k kills it, f freezes it or lets it go on, q quits.
    """
    try:
        from allgone.cli import top as screen
    except ImportError as e:
        raise click.ClickException(f"top needs textual: pip install 'allgone[top]' ({e})") from e
    return screen.run(names, interval)


@allgone.command(short_help="SIGKILL to all processes of a containment.")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--all", "everything", is_flag=True, help="All that are yours; as root, all.")
def kill(names: tuple[str, ...], everything: bool) -> int:
    """End all processes of the containments called NAME by SIGKILL. "allgone ps" has the names.

    Only containments of allgone, and only your own unless you are root.
    """
    return _end(names, everything, kill=True)


@allgone.command(short_help="Stop a containment as its supervisor would.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def stop(names: tuple[str, ...]) -> int:
    """Stop the containments called NAME as their supervisors would: ask, wait, kill. "allgone ps" has the names."""
    return _end(names, everything=False, kill=False)


def _end(names: tuple[str, ...], everything: bool, *, kill: bool) -> int:
    from allgone.cli import containments

    if bool(names) == everything:
        raise click.UsageError("give either names or --all", click.get_current_context())
    return containments.end(names, everything=everything, kill=kill)


@allgone.command(short_help="Remove what supervisors that were killed have left.")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
def gc(dry_run: bool) -> int:
    """End and remove what lost both its supervisor and its guard, and list processes that left a process group.

    Only what is certain to be nobody's any more, and of the user that you are.
    """
    from allgone.cli import containments

    return containments.gc(dry_run=dry_run)


def main(args: Sequence[str] | None) -> int:
    """The exit status. Errors of usage are own failures, as with timeout(1)."""
    try:
        status = allgone.main(args=args, prog_name="allgone", standalone_mode=False)
    except click.UsageError as e:
        where = e.ctx.command_path if e.ctx is not None else "allgone"
        say(f'{e.format_message()} (try "{where} --help")')
        return OWN_FAILURE
    except click.ClickException as e:
        say(e.format_message())
        return OWN_FAILURE
    except click.Abort:
        return 128 + signal.SIGINT
    return status if isinstance(status, int) else 0
