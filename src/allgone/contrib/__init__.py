"""Adapters for libraries that start processes by themselves; each is imported by its own name, with its library.

mirakuru           executors whose processes are contained
xprocess           a pytest-xprocess starter whose process is contained
pexpect            a spawn that is contained
multiprocessing    a context whose processes are contained; also for concurrent.futures
buildbot           steps whose commands are contained on the worker
"""
