"""Trials of alerts: changes of the observations or the model that nobody announced, and runs without any.

    python -m tests.detection               # inject changes into the demonstration: how soon is each noticed?
    python -m tests.detection ARCHIVE       # alerts of the runs in an archive, in which nothing was changed

The first takes some minutes. docs/alerts.md has the tables of both.
"""
