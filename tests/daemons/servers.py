"""Real servers: how each is started, and how one can tell that it is up."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import allgone

FreePort = Callable[[], int]


@dataclass(frozen=True)
class Server:
    """A server to start: its command, how it shows that it is ready, and what must be free after it."""

    args: list[str]
    ready: Any
    ports: tuple[int, ...] = ()
    paths: tuple[Path, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


def program(*names: str) -> str | None:
    """The first of these programs that is installed, also where only root looks."""
    places = os.environ["PATH"] + ":/usr/sbin:/sbin:" + ":".join(map(str, Path("/usr/lib/postgresql").glob("*/bin")))
    return next((found for name in names if (found := shutil.which(name, path=places))), None)


def nginx(folder: Path, free_port: FreePort) -> Server:
    """A master that daemonises (the leader ends at once) and overwrites its environment, and two workers."""
    port = free_port()
    (folder / "nginx.conf").write_text(
        f"daemon on; worker_processes 2; pid {folder}/nginx.pid; error_log {folder}/error.log;\n"
        + ("user root;\n" if os.getuid() == 0 else "")
        + "events {}\n"
        "http { access_log off;"
        + "".join(
            f" {kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        + f" server {{ listen 127.0.0.1:{port}; location / {{ return 200 up; }} }} }}\n"
    )
    args = [program("nginx") or "nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", f"{folder}/e.log"]
    return Server(args, allgone.http(f"http://127.0.0.1:{port}/"), ports=(port,))


def redis(folder: Path, free_port: FreePort) -> Server:
    """A daemon by double fork and setsid()."""
    port = free_port()
    args = [program("redis-server") or "redis-server", "--daemonize", "yes", "--port", str(port)]
    args += ["--bind", "127.0.0.1", "--dir", str(folder), "--save", "", "--pidfile", str(folder / "redis.pid")]
    return Server(args, allgone.tcp(port), ports=(port,))


def postgresql(folder: Path, free_port: FreePort) -> Server:
    """A foreground postmaster whose every backend calls setsid(); it refuses to be root."""
    port, data = free_port(), folder / "data"
    options: dict[str, Any] = {}
    if os.getuid() == 0:
        options = {"user": "nobody", "group": "nogroup", "extra_groups": []}
        shutil.chown(folder, "nobody")
    env = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
    bin_folder = Path(program("initdb") or "initdb").resolve().parent
    subprocess.run(
        [bin_folder / "initdb", "-D", data, "--no-sync", "-A", "trust", "-U", "tester"],
        check=True, stdout=subprocess.DEVNULL, env=env, cwd=folder, **options,
    )  # fmt: skip
    args = [str(bin_folder / "postgres"), "-D", str(data), "-p", str(port), "-k", str(folder), "-h", "127.0.0.1", "-F"]
    return Server(
        args, allgone.log_line("ready to accept connections"), ports=(port,), paths=(folder / f".s.PGSQL.{port}",),
        options={**options, "env": env, "cwd": str(folder)},
    )  # fmt: skip


def tmux(folder: Path, _: FreePort) -> Server:
    """A client that ends at once and leaves a server in a session of its own, with a command on a pty.

    Several words, so that tmux executes them itself: the user's shell may be nologin.
    """
    sock = folder / "tmux.sock"
    args = [program("tmux") or "tmux", "-S", str(sock), "-f", "/dev/null", "new-session", "-d", "sleep", "1000"]

    def has_session() -> bool:
        command = [args[0], "-S", str(sock), "has-session"]
        return sock.exists() and subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0

    return Server(args, has_session)


def gunicorn(folder: Path, free_port: FreePort) -> Server:
    """A master with four workers."""
    port = free_port()
    (folder / "app.py").write_text("def app(environ, start):\n    start('200 OK', [])\n    return [b'up']\n")
    args = [sys.executable, "-m", "gunicorn", "-w", "4", "-b", f"127.0.0.1:{port}", "--chdir", str(folder), "app:app"]
    return Server(args, allgone.http(f"http://127.0.0.1:{port}/"), ports=(port,))


def pipeline(folder: Path, _: FreePort) -> Server:
    """Three processes of a shell, the first of which would go on for ever."""
    out = folder / "out"
    script = f"while :; do echo line; sleep 0.01; done | cat | cat >{out}"
    return Server(["sh", "-c", script], lambda: out.exists() and out.stat().st_size > 0)


def two_servers(folder: Path, free_port: FreePort) -> Server:
    """A background server that is nobody's child in the end, and one that takes the shell's place."""
    one, two = free_port(), free_port()
    serve = f"{sys.executable} -m http.server --bind 127.0.0.1 --directory {folder}"
    script = f"{serve} {one} & exec {serve} {two}"

    def both_listen() -> bool:
        for port in (one, two):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True

    return Server(["sh", "-c", script], both_listen, ports=(one, two))


SERVERS: dict[str, tuple[Callable[[Path, FreePort], Server], str | None]] = {
    "nginx": (nginx, program("nginx")),
    "redis": (redis, program("redis-server")),
    "postgresql": (postgresql, program("initdb")),
    "tmux": (tmux, program("tmux")),
    "gunicorn": (gunicorn, sys.executable),
    "pipeline": (pipeline, "sh"),
    "two_servers": (two_servers, sys.executable),
}
