"""The commands of docs/systemd.md do what it says: as root, and those for ordinary users in a login session."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from support.procfs import comes_within
from support.systemd_env import ROOT_SERVICE, USER_SESSION, Environment, Place

from allgone._linux import systemd
from docs import console, pages

BLOCKS = [each for each in pages.blocks(pages.ROOT / "docs/systemd.md") if each.language == "console"]
PLACES = (ROOT_SERVICE, USER_SESSION, USER_SESSION)


@pytest.mark.parametrize(("block", "place"), list(zip(BLOCKS, PLACES, strict=True)), ids=str)
def test_commands_say_what_the_page_says(environment: Environment, block: pages.Block, place: Place) -> None:
    path = environment.variables.get("PYTHONPATH", "")
    for step in console.steps(block.text):
        script = step.command.replace("allgone run", f"env PYTHONPATH={path} {environment.python} -m allgone run")
        said = environment.run("sh", "-c", script, place=place, check=False).stdout
        assert said.strip() == step.shown.strip(), f"{block}: {step.command}"


def test_what_the_page_says_to_install_is_what_the_errors_say() -> None:
    page = (pages.ROOT / "docs/systemd.md").read_text(encoding="utf-8")
    lines = [each.strip() for each in page.splitlines() if each.startswith("    apt-get") or each.startswith("    pip")]
    assert ", then ".join(lines) == systemd.PACKAGES


RUNNER = """
import allgone, os
with allgone.Popen(["sleep", "1000"], backend="cgroup", name="job") as child:
    where = os.environ.get("XDG_RUNTIME_DIR", "/run") + "/where"
    with open(where + ".new", "w") as file:
        file.write(child._containment.where())
    os.rename(where + ".new", where)
    child.wait()
"""


@pytest.mark.parametrize("user", ["root", "alice"])
def test_a_runner_with_the_service_file_of_the_page_makes_cgroups_in_its_own(
    environment: Environment, user: str
) -> None:
    page = (pages.ROOT / "docs/systemd.md").read_text(encoding="utf-8")
    _, head, rest = page.partition("    [Service]\n")
    unit = textwrap.dedent(head + rest.split("\n\n")[0])
    path = environment.variables.get("PYTHONPATH", "").split(":")
    environment.run(
        "tee", "/usr/bin/runner", input=f"#!{environment.python}\nimport sys; sys.path[:0] = {path}" + RUNNER
    )
    environment.run("chmod", "755", "/usr/bin/runner")
    folder, place, runtime = "/etc/systemd/system", ROOT_SERVICE, "run"
    if user != "root":
        folder, place, runtime = f"/home/{user}/.config/systemd/user", USER_SESSION, f"run/user/{environment.uid(user)}"
    environment.run("mkdir", "-p", folder, place=place)
    environment.run("tee", f"{folder}/runner.service", input=unit, place=place)
    with environment.start("cat", place=place) as session:  # as long as it lasts, so does a user's manager
        assert session.stdin is not None
        assert session.stdout is not None
        session.stdin.write("there\n")
        session.stdin.flush()
        session.stdout.readline()
        environment.systemctl("daemon-reload", user=user)
        environment.systemctl("start", "runner.service", user=user)
        comes_within(environment.root / runtime / "where", 10)
        where = environment.run("cat", f"/{runtime}/where").stdout
        cgroup = Path(where).relative_to("/sys/fs/cgroup").parents[1]
        assert cgroup.name == "runner.service"
        assert not environment.systemctl("list-units", "allgone-*", user=user)
        environment.systemctl("stop", "runner.service", user=user)
        assert not (environment.cgroups / cgroup).exists()
        environment.run("rm", f"{folder}/runner.service", f"/{runtime}/where")
        environment.systemctl("daemon-reload", user=user)
        session.communicate()


def test_every_command_of_systemd_env_is_on_its_page() -> None:
    script = Path(pages.ROOT, "scripts/systemd-env").read_text(encoding="utf-8")
    page = (pages.ROOT / "docs/systemd-env.md").read_text(encoding="utf-8")
    for verb in ("up", "run", "sh", "down"):
        assert f"#   systemd-env {verb} NAME" in script
        assert f"`{verb} NAME" in page
