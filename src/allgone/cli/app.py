"""Arguments, options and help of the command."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from allgone.cli import OWN_FAILURE, options, say

if TYPE_CHECKING:
    from allgone._core.openmetrics import Format

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
  allgone job begin --pid "$PPID"       in a CI runner's hook: "allgone job end" ends what the job leaves
  allgone doctor                        what this machine can do
"""
_END_STATUS = """\b
Exit status:
  0  done    1  something was left behind (with --fail-on-leftovers)    125  allgone itself failed; wrong usage
"""
_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(context_settings=_SETTINGS, epilog=_EPILOG)
@click.version_option(package_name="allgone", prog_name="allgone")
def allgone() -> None:
    """Start a process. When you stop it, all of it is gone."""


@allgone.command(
    short_help="Run a command; when it ends, so does everything that it started.",
    epilog=_RUN_EXAMPLES,
    context_settings={"allow_interspersed_args": False},
)
@options.backend
@click.option(
    "--timeout",
    metavar="DURATION",
    default="infinity",
    callback=options.time_limit,
    help="Stop everything after this long; exit status 124.",
)
@options.timeout_stop(default="10s")
@click.option(
    "--kill-mode",
    type=click.Choice(["control-group", "mixed", "process"]),
    default="control-group",
    show_default=True,
    help="Who is asked to end: all; the command, the rest being killed when it has ended; or nobody but the command, "
    "the rest being left running.",
)
@options.kill_signal
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
    callback=options.properties,
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
    callback=lambda *asked: None if asked[2] is None else options.time_limit(*asked),
    help="With cgroup, have CPU and memory in the report, looked at this often.",
)
@click.option("--usage", is_flag=True, help="When all is over, print what was used to stderr, as time -v does.")
@options.limits
@click.option("--seal", is_flag=True, help="Keep a command that is root from leaving its cgroup by itself.")
@click.option(
    "--network",
    type=click.Choice(["private", "veth"]),
    help="A network of its own: loopback only, or with an address that is reached from here; root only.",
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- CMD [ARG]...")
def run(command: tuple[str, ...], **given: Any) -> int:
    """Run CMD. When it ends, or is stopped, everything that it started is stopped, too.

    It is in the foreground, with the same stdin, stdout and stderr. What it left behind is named on stderr.
    """
    from allgone._core.policy import StopPolicy
    from allgone.cli import job

    policy = StopPolicy(
        kill_mode=given["kill_mode"],
        kill_signal=given["kill_signal"],
        send_sighup=given["send_sighup"],
        timeout_stop=given["timeout_stop"],
    )
    limits = options.limits_of(given)
    scope = {name: given[name] for name in ("unit", "slice", "description", "properties") if given[name]}
    return job.run(
        job.Job(
            command,
            policy,
            given["backend"],
            given["timeout"],
            given["name"],
            given["reports"],
            scope,
            {name: given[name] for name in ("trace", "escapees", "seal", "network", "sample")} | {"limits": limits},
            usage=given["usage"],
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
@options.backend
@options.timeout_stop(default="5s")
@click.option(
    "--kill-mode",
    type=click.Choice(["control-group", "mixed"]),
    default="control-group",
    show_default=True,
    help="Who is asked to end: all; or those that the Procfile names, the rest being killed when they have ended.",
)
@options.kill_signal
@click.option("--name", help="What the containment is called (default: made up from DIR).")
@click.option("--report", "reports", metavar="FILE", multiple=True, help='Write a report, as "allgone run" does.')
@click.argument("names", nargs=-1, metavar="[NAME]...")
def up(names: tuple[str, ...], **given: Any) -> int:
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
            names, **{each: given[each] for each in ("procfile", "app_root", "env", "port", "concurrency", "quiet")}
        ),
        StopPolicy(given["kill_mode"], given["kill_signal"], timeout_stop=given["timeout_stop"]),
        backend=given["backend"],
        name=given["name"],
        reports=given["reports"],
        colour=not given["no_colour"],
        prefix=not given["no_prefix"],
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


@allgone.command(short_help="Print metrics for Prometheus.")
@click.option("--output", metavar="FILE", help="Put them into this file, all at once, instead of printing them.")
@click.option(
    "--format",
    type=click.Choice(["openmetrics", "prometheus"]),
    default="openmetrics",
    show_default=True,
    help="The second is for node_exporter's textfile collector.",
)
@click.option("--counters", metavar="DIR", envvar="ALLGONE_METRICS", help="Where ends are counted.")
def metrics(output: str | None, format: Format, counters: str | None) -> int:
    """Print how many containments there are on this machine that you may see, and what they use; and, where ends are
    counted (ALLGONE_METRICS), how many were stopped, how, and how long that took.
    """
    from allgone.cli import metrics as numbers

    return numbers.run(output=output, format=format, folder=counters)


@allgone.command(short_help="Watch them live, with keys to stop, kill and freeze.")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option(
    "--interval",
    metavar="DURATION",
    default="1s",
    show_default=True,
    callback=options.time_limit,
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


@allgone.group("job", short_help="A CI runner's job: one hook begins it, another one ends it.")
def runner_job() -> None:
    """Keep what a CI runner's job starts in a cgroup: one hook of the runner's begins it, another one ends it.

    Where the runner can be told to start a command around each job, "allgone run" is simpler, and does more.
    """


@runner_job.command(short_help="From now on, keep what the runner's process starts.")
@click.option(
    "--pid",
    type=int,
    required=True,
    help='The process that runs the job: "$PPID" in a shell script that it has started. It must have started us, and '
    "when it ends, so does all that is left of the job.",
)
@click.option("--name", default="job", show_default=True, help='What "allgone ps" calls it.')
def begin(pid: int, name: str) -> int:
    """Put the process that runs the job, and this hook, into a new cgroup: what they start from now on is born there.

    Only with cgroups: the runner's unit needs Delegate=yes, or ALLGONE_CGROUP names a cgroup. A job of the same process
    that was not ended is ended first.
    """
    from allgone.cli import runner_job

    return runner_job.begin(pid, name)


@runner_job.command(short_help="Stop what the job has left behind.", epilog=_END_STATUS)
@options.timeout_stop(default="10s")
@options.kill_signal
@click.option("--send-sighup", is_flag=True, help="Send SIGHUP as well; shells want it.")
@click.option("--report", "reports", metavar="FILE", multiple=True, help='Write a report, as "allgone run" does.')
@click.option(
    "--log",
    type=click.Choice(["plain", "github"]),
    help="How to say what was left behind (default: github, as an annotation, if GITHUB_ACTIONS is set).",
)
@click.option("--fail-on-leftovers", is_flag=True, help="Exit status 1 if there was anything.")
def end(**given: Any) -> int:
    """Put the process that runs the job, and this hook, back to where they came from, and stop what is left in the job.

    What was left behind is named on stderr.
    """
    from allgone._core.policy import StopPolicy
    from allgone.cli import runner_job

    policy = StopPolicy(
        kill_signal=given["kill_signal"], send_sighup=given["send_sighup"], timeout_stop=given["timeout_stop"]
    )
    return runner_job.end(policy, given["reports"], given["log"], fail=given["fail_on_leftovers"])


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
