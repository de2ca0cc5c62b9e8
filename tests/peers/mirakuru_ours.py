"""A pytest plugin for mirakuru's own suite: its executors are ours."""

from __future__ import annotations

import importlib

import mirakuru
import pytest

import allgone.contrib.mirakuru as ours

WHERE = {
    "SimpleExecutor": "base",
    "OutputExecutor": "output",
    "TCPExecutor": "tcp",
    "UnixSocketExecutor": "unixsocket",
    "HTTPExecutor": "http",
    "PidExecutor": "pid",
}


def pytest_configure(config: pytest.Config) -> None:
    for name, module in WHERE.items():
        for place in (mirakuru, importlib.import_module(f"mirakuru.{module}")):
            setattr(place, name, getattr(ours, name))
