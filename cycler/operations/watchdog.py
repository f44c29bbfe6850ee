"""Messages to systemd, whose watchdog starts a service again that no longer gets on (sd_notify(3))."""

import os
import socket

__all__ = ["interval", "notify"]


def notify(message: str) -> None:
    """Send a message such as `READY=1` or `WATCHDOG=1` to the systemd that started this process; else do nothing."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    path = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        try:
            sender.sendto(message.encode(), path)
        except OSError:  # systemd itself is starting again; the next message counts
            return


def interval() -> float | None:
    """Return the seconds within which the watchdog wants a message; None where there is none."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 if microseconds.isdecimal() else None
