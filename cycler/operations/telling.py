"""Ways of telling an alert: the log, a webhook, e-mail. `DACYCLE_` settings choose them; see docs/alerts.md."""

import logging
import smtplib
from dataclasses import asdict
from email.message import EmailMessage
from functools import partial

import httpx

from dacycle.common.limits import in_time
from dacycle.common.settings import Settings
from dacycle.cycler.operations.alerts import Alert, Tell

__all__ = ["ways_of_telling"]

logger = logging.getLogger(__name__)

_PATIENCE = 10.0
"""Seconds without an answer."""

_LIMIT = 30.0
"""Seconds of the whole; what could not be told is tried again at the next look."""


def ways_of_telling(settings: Settings) -> dict[str, Tell]:
    """Return the ways that the settings name, by name; the log always is one."""
    ways: dict[str, Tell] = {"log": _log}
    if settings.alert_webhook:
        ways["webhook"] = partial(_post, settings.alert_webhook)
    if settings.alert_mail:
        ways["mail"] = partial(_send, settings)
    return ways


def _log(alert: Alert) -> None:
    level = logging.INFO if alert.ended else logging.ERROR if alert.severity == "critical" else logging.WARNING
    logger.log(level, "%s", _line(alert))


def _post(url: str, alert: Alert) -> None:
    """Post an alert as JSON; `text` is the key that chat services show."""
    content = {**asdict(alert), "state": alert.state, "sentence": alert.text, "text": _line(alert)}
    content.pop("told")
    try:
        answer = in_time(_LIMIT, lambda: httpx.post(url, json=content, timeout=_PATIENCE))
        answer.raise_for_status()
    except (httpx.HTTPError, TimeoutError) as error:
        raise OSError(f"webhook {url}: {error or type(error).__name__}") from error


def _send(settings: Settings, alert: Alert) -> None:
    message = EmailMessage()
    message["Subject"] = f"dacycle {alert.experiment}: {alert.key} {'is over' if alert.ended else alert.severity}"
    message["From"] = settings.mail_from
    message["To"] = settings.alert_mail
    times = f"since {alert.began} UTC, cycle {alert.cycle}" + (f"; over at {alert.ended} UTC" if alert.ended else "")
    message.set_content(f"{_line(alert)}\n\n{times}\n")
    host, _, port = settings.mail_server.partition(":")

    def send() -> None:
        with smtplib.SMTP(host, int(port or 25), timeout=_PATIENCE) as server:
            server.send_message(message)

    in_time(_LIMIT, send)


def _line(alert: Alert) -> str:
    return f"{alert.experiment}: {'over: ' if alert.ended else ''}{alert.text}"
