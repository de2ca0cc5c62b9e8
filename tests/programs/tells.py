"""What a service tells its manager: sd_notify(3) and sd_notify_barrier(3), without libsystemd."""

import os
import select
import socket


def tell(text, *fds):
    """Send it, with copies of the fds."""
    address = os.environ["NOTIFY_SOCKET"].replace("@", "\0", 1)
    data = text if isinstance(text, bytes) else text.encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.connect(address)
        socket.send_fds(notify, [data], list(fds)) if fds else notify.send(data)


def hand_over(text):
    """Send it with an fd, and wait until nobody has that open any more."""
    reader, writer = os.pipe()
    tell(text, writer)
    os.close(writer)
    select.select([reader], [], [])
    os.close(reader)
