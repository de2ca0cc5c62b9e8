"""The commands of docs/systemd.md do what it says: as root, and those for ordinary users in a login session."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from support.procfs import comes_within
from support.systemd_env import ROOT_SERVICE, USER_SESSION, Environment, Place

from docs import console, pages

BLOCKS = [each for each in pages.blocks(pages.ROOT / "docs/systemd.md") if each.language == "console"]


@pytest.mark.parametrize(("block", "place"), list(zip(BLOCKS, (ROOT_SERVICE, USER_SESSION), strict=True)), ids=str)
def test_commands_say_what_the_page_says(environment: Environment, block: pages.Block, place: Place) -> None:
    for step in console.steps(block.text):
        script = step.command.replace("allgone run", f"{environment.python} -m allgone run")
        said = environment.run("sh", "-c", script, place=place, check=False).stdout
        assert said.strip() == step.shown.strip(), f"{block}: {step.command}"


def test_a_runner_with_the_service_file_of_the_page_makes_cgroups_in_its_own(environment: Environment) -> None:
    page = (pages.ROOT / "docs/systemd.md").read_text(encoding="utf-8")
    _, head, rest = page.partition("    [Service]\n")
    unit = textwrap.dedent(head + rest.split("\n\n")[0])
    path = environment.variables.get("PYTHONPATH", "").split(":")
    runner = f"#!{environment.python}\nimport sys; sys.path[:0] = {path}" + textwrap.dedent("""
        import allgone, os
        with allgone.Popen(["sleep", "1000"], backend="cgroup", name="job") as child:
            with open("/run/where.new", "w") as file:
                file.write(child._containment.where())
            os.rename("/run/where.new", "/run/where")
            child.wait()
    """)
    environment.run("tee", "/usr/bin/runner", input=runner)
    environment.run("chmod", "755", "/usr/bin/runner")
    environment.run("tee", "/run/systemd/system/runner.service", input=unit)
    environment.run("systemctl", "daemon-reload")
    environment.run("systemctl", "start", "runner.service")
    comes_within(environment.root / "run/where", 10)
    where = environment.run("cat", "/run/where").stdout
    assert where.startswith("/sys/fs/cgroup/system.slice/runner.service/")
    assert not environment.systemctl("list-units", "allgone-*")
    environment.run("systemctl", "stop", "runner.service")
    assert not (environment.cgroups / "system.slice/runner.service").exists()
    environment.run("rm", "/run/systemd/system/runner.service", "/run/where")
    environment.run("systemctl", "daemon-reload")


def test_every_command_of_systemd_env_is_on_its_page() -> None:
    script = Path(pages.ROOT, "scripts/systemd-env").read_text(encoding="utf-8")
    page = (pages.ROOT / "docs/systemd-env.md").read_text(encoding="utf-8")
    for verb in ("up", "run", "sh", "down"):
        assert f"#   systemd-env {verb} NAME" in script
        assert f"`{verb} NAME" in page
