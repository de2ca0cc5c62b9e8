"""What `allgone doctor` says: which way cgroups are had, through which systemd, or what is missing and what to do."""

from __future__ import annotations

import re

import pytest
from support.systemd_env import (
    PLACES,
    ROOT_SERVICE,
    SCOPED,
    USER_LINGERING,
    USER_SERVICE,
    USER_SESSION,
    Environment,
    Place,
    container,
)

NO_MANAGER = Place("user-without-manager", ("--property", "User=daemon"), user="daemon")


def doctor(environment: Environment, *before: str, place: Place = ROOT_SERVICE) -> str:
    """What it says, with a single blank for each gap."""
    said = environment.run(*before, environment.python, "-m", "allgone", "doctor", place=place).stdout
    return re.sub(r"[ \n]+", " ", said)


def auto(backend: str) -> str:
    return f'"auto" takes: {backend} because: '


def of_user(environment: Environment, place: Place) -> str:
    return "/run" if place.user == "root" else f"/run/user/{environment.uid(place.user)}"


@pytest.mark.parametrize("place", SCOPED, ids=str)
def test_a_scope_is_named_and_so_is_the_manager_that_made_it(environment: Environment, place: Place) -> None:
    said = doctor(environment, place=place)
    manager = f"{of_user(environment, place)}/systemd/private"
    assert auto("cgroup") + "cgroups can be made and entered below /sys/fs/cgroup/" in said
    assert re.search(rf"/(allgone-\d+-\w+\.scope): a transient scope of our own, from the systemd at {manager} ", said)
    assert len(set(re.findall(r"allgone-\d+-\w+\.scope", said))) == 1  # one, and not a second one to say more of
    whose = "the system's manager" if place.user == "root" else "this user's manager"
    assert f" ok systemd {whose} answers at {manager}; " in said


@pytest.mark.parametrize("place", [ROOT_SERVICE, USER_SERVICE], ids=str)
def test_the_unit_that_a_scope_ends_with_is_named(environment: Environment, place: Place) -> None:
    assert re.search(r"; a scope ends with our unit, run-\S+\.service ", doctor(environment, place=place))


@pytest.mark.parametrize("place", [USER_SESSION, USER_LINGERING], ids=str)
def test_who_is_in_none_of_the_users_units_is_told_so(environment: Environment, place: Place) -> None:
    said = doctor(environment, place=place)
    assert "; a scope is bound to no unit, for we are in none of its " in said
    assert " -- entering systemd moves each child in, which this user can't do; no preexec_fn " in said


@pytest.mark.parametrize("place", [each for each in PLACES if each not in SCOPED], ids=str)
def test_in_a_delegated_unit_systemd_need_not_be_asked(environment: Environment, place: Place) -> None:
    said = doctor(environment, place=place)
    delegated = "systemd has delegated our unit's cgroup to us (Delegate=yes)"
    assert re.search(rf"below /sys/fs/cgroup/\S+\.service: {re.escape(delegated)} ", said)
    assert f" -- systemd runs; need not be asked, for {delegated} " in said
    assert " -- entering each child enters its cgroup by itself " in said


def test_in_a_container_without_systemd_it_is_our_own_cgroup(environment: Environment) -> None:
    said = doctor(environment, *container())
    why = "no systemd runs here, so it is made below our own cgroup"
    assert auto("cgroup") + f"cgroups can be made and entered below /sys/fs/cgroup: {why} " in said
    assert " -- own cgroup /, the top of a cgroup namespace, as in a container " in said
    assert " -- systemd does not run here; cgroups are made without it " in said


def test_in_a_container_with_a_read_only_cgroup_file_system_it_says_what_to_do(environment: Environment) -> None:
    said = doctor(environment, *container(writable=False))
    assert auto("process-group") + "the supervisor's own cgroup (/): /sys/fs/cgroup is mounted read-only " in said
    assert " ok cgroup2 /sys/fs/cgroup (read-only) " in said
    assert re.search(r" no backend cgroup .* what to do: run the container privileged, or mount it rw ", said)


def test_a_systemd_outside_of_the_container_is_known_for_one(environment: Environment) -> None:
    said = doctor(environment, *container(systemd=True))
    assert auto("process-group") + "a scope from systemd: /run/systemd/private is of a systemd outside" in said
    assert " no systemd runs outside of this container, and knows other pids than ours what to do: keep /run" in said


def test_in_a_container_whose_cgroup_file_system_is_another_ones_it_says_what_that_shows(
    environment: Environment,
) -> None:
    said = doctor(environment, "unshare", "--cgroup", "--pid", "--mount-proc", "--fork", "--kill-child")
    assert auto("process-group") + "the supervisor's own cgroup (/): no cgroup2 mount shows it" in said
    assert re.search(r" ok cgroup2 /sys/fs/cgroup \(rw, shows /\.\.\S*\) ", said)


def test_a_user_without_a_manager_is_told_how_to_get_one(environment: Environment) -> None:
    said = doctor(environment, place=NO_MANAGER)
    assert auto("process-group") + "a scope from systemd: connecting to /run/user/" in said
    assert re.search(r" no backend cgroup .* what to do: loginctl enable-linger USER starts a manager", said)
    assert " -- systemd runs, but this user's manager does not answer: see backend cgroup " in said


@pytest.mark.parametrize("place", [ROOT_SERVICE, USER_SESSION], ids=str)
def test_without_pystemd_it_says_how_to_get_it(environment: Environment, place: Place) -> None:
    code = """
        import sys
        sys.modules["pystemd.dbuslib"] = None
        from allgone.cli import main
        sys.exit(main(["doctor"]))
    """
    said = re.sub(r"[ \n]+", " ", environment.run_python(code, place=place).stdout)
    assert auto("process-group") + "a scope from systemd: pystemd can't be imported" in said
    assert " -- systemd runs, and hands out the cgroups; without pystemd it can't be asked " in said
    to_do = "what to do: apt-get install gcc pkg-config libsystemd-dev python3-dev, then pip install 'allgone[systemd]'"
    assert re.search(rf" no pystemd can't be imported, so systemd can't be asked: .* {re.escape(to_do)} ", said)
