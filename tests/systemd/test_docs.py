"""The commands of docs/systemd.md do what it says: as root, and those for ordinary users in a login session."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.systemd_env import ROOT_SERVICE, USER_SESSION, Environment, Place

from docs import console, pages

BLOCKS = [each for each in pages.blocks(pages.ROOT / "docs/systemd.md") if each.language == "console"]


@pytest.mark.parametrize(("block", "place"), list(zip(BLOCKS, (ROOT_SERVICE, USER_SESSION), strict=True)), ids=str)
def test_commands_say_what_the_page_says(environment: Environment, block: pages.Block, place: Place) -> None:
    for step in console.steps(block.text):
        script = step.command.replace("allgone run", f"{environment.python} -m allgone run")
        said = environment.run("sh", "-c", script, place=place, check=False).stdout
        assert said.strip() == step.shown.strip(), f"{block}: {step.command}"


def test_every_command_of_systemd_env_is_on_its_page() -> None:
    script = Path(pages.ROOT, "scripts/systemd-env").read_text(encoding="utf-8")
    page = (pages.ROOT / "docs/systemd-env.md").read_text(encoding="utf-8")
    for verb in ("up", "run", "sh", "down"):
        assert f"#   systemd-env {verb} NAME" in script
        assert f"`{verb} NAME" in page
