"""The proc connector: every fork, exec, setsid and exit, as the kernel tells of them (CONFIG_PROC_EVENTS).

A raw netlink socket, for pyroute2's class reads a sixth as many events and ends at the first overrun.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time

from allgone.errors import Unsupported

FORK, EXEC, SID, COMM, EXIT = 0x1, 0x2, 0x80, 0x200, 0x80000000  # linux/cn_proc.h, enum proc_cn_event
# struct nlmsghdr, 16 bytes; struct cn_msg, 20; struct proc_event: what, cpu, timestamp_ns, and of what depends on
# `what` the first four: FORK parent_pid, parent_tgid, child_pid, child_tgid; others process_pid, process_tgid, of which
# EXIT exit_code, exit_signal.
EVENT = struct.Struct("=IIQ4I")
EVENT_AT = 36
COMM_AT = EVENT_AT + 24
LONGEST = 256  # bytes of a message: they have 76

RECEIVE_BUFFER = 32 << 20  # bytes, of which an event takes 832; only what waits to be read takes memory
ACK_TIMEOUT = 1.0  # seconds; where the kernel answers, it has done so before send(2) returns

_NETLINK_CONNECTOR, _NLMSG_DONE = 11, 3
_CN_IDX_PROC = _CN_VAL_PROC = 1
_REQUEST = struct.Struct("=IHHIIIIIIHHI")  # the two headers, and enum proc_cn_mcast_op
_ACK, _ACK_AT = struct.Struct("=I"), 28
_LISTEN, _IGNORE = 1, 2
_SOL_NETLINK, _NETLINK_NO_ENOBUFS = 270, 5
_SO_RCVBUFFORCE, _SO_MEMINFO, _SK_MEMINFO_DROPS, _SK_MEMINFO_VARS = 33, 55, 8, 9
# The numbers of the initial namespaces' inodes (linux/proc_ns.h), from which alone the kernel answers.
_INITIAL = {"pid": 0xEFFFFFFC, "user": 0xEFFFFFFD}
_REMEDY = "trace=True works on the machine itself, not in a container"


class Subscription:
    """A socket that the kernel sends every event to. Close it: a context manager as well.

    Raises `Unsupported`, saying why.
    """

    _is_subscribed = False

    def __init__(self) -> None:
        for kind, inode in _INITIAL.items():
            if os.stat(f"/proc/self/ns/{kind}").st_ino != inode:
                raise _unsupported(f"this process is in a {kind} namespace of its own. {_REMEDY}")
        try:
            self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_CONNECTOR)
        except OSError as e:
            if e.errno in (errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT):
                raise _unsupported("this kernel was built without it (CONFIG_CONNECTOR, CONFIG_PROC_EVENTS)") from None
            raise
        try:
            self._set_up()
        except BaseException:
            self.socket.close()
            raise

    def _set_up(self) -> None:
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER)
        except PermissionError:  # then what an ordinary user may have; what it does not hold is counted
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        # Else the kernel would, after one overrun, drop everything until all before it was read.
        self.socket.setsockopt(_SOL_NETLINK, _NETLINK_NO_ENOBUFS, 1)
        try:
            self.socket.bind((0, _CN_IDX_PROC))
            self._ask(_LISTEN)
            self._is_subscribed = True
        except PermissionError:
            raise _unsupported("this kernel (before Linux 6.6) wants CAP_NET_ADMIN for it: run as root") from None
        except ConnectionRefusedError:
            raise _unsupported(f"this process is in a network namespace of its own. {_REMEDY}") from None

    def _ask(self, what: int) -> None:
        """Raises OSError where the kernel refuses, and `Unsupported` where it is silent."""
        number = int.from_bytes(os.urandom(4), "little") >> 1  # its `ack`, to which the answer adds 1
        self.socket.send(_request(what, number))
        deadline = time.monotonic() + ACK_TIMEOUT
        poller = select.poll()
        poller.register(self.socket, select.POLLIN)
        while (left := deadline - time.monotonic()) > 0 and poller.poll(left * 1000):
            message = self.socket.recv(LONGEST)
            event, _, _, error, *_ = EVENT.unpack_from(message, EVENT_AT)
            if event == 0 and _ACK.unpack_from(message, _ACK_AT) == (number + 1,):  # answers to others come as well
                if error:
                    raise OSError(error, os.strerror(error))
                return
        raise _unsupported(f"the kernel did not answer within {ACK_TIMEOUT:g} s: perhaps it lacks CONFIG_PROC_EVENTS")

    def drops(self) -> int:
        """How many events the kernel could not queue since this was made."""
        size = 4 * _SK_MEMINFO_VARS
        values = self.socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, size)  # Linux 4.12
        return int(struct.unpack_from("=I", values, 4 * _SK_MEMINFO_DROPS)[0])

    def unsubscribe(self) -> None:
        """No more events. Idempotent."""
        if self._is_subscribed:
            # Before Linux 6.6 the kernel would go on to make events for a listener that is gone. It counts them: once.
            self._is_subscribed = False
            self.socket.send(_request(_IGNORE, 0))

    def close(self) -> None:
        self.unsubscribe()
        self.socket.close()

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _request(what: int, number: int) -> bytes:
    return _REQUEST.pack(_REQUEST.size, _NLMSG_DONE, 0, 0, 0, _CN_IDX_PROC, _CN_VAL_PROC, 0, number, 4, 0, what)


def _unsupported(why: str) -> Unsupported:
    return Unsupported(f"trace=True needs the kernel's proc connector: {why}")
