"""A trial of `dacycle up`: live cycles under Prefect and PostgreSQL in compressed time, while its processes are killed.

    python -m tests.compressed FOLDER --cycles 48 --seconds 45 --seed 1 --workers 1

The demonstration runs live by a clock that passes faster (`DACYCLE_CLOCK`). At random moments a flow run, a worker,
the server, the database, `dacycle up` or everything is killed by SIGKILL; `up` is started again, as a supervisor would.
In the end the archive is compared with an undisturbed replay. docs/reliability.md has the table that is printed.
"""
