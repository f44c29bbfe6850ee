"""Trials of alerts: changes of the observations or the model that nobody announced, and runs without any.

    python -m tests.detection               # inject changes into the demonstration: how soon is each noticed?
    python -m tests.detection ARCHIVE       # alerts of the runs in an archive, in which nothing was changed

The first takes three minutes. Its run has `DAYS` days without a change and ends with the alerts of these, so that both
tables of docs/alerts.md come from it and from an archive of three months.
"""
