"""Fuzzing of every reader of foreign files: mutated inputs, and what a reader may do with them.

    python -m tests.fuzz                        # 100 000 inputs, about an hour of one core
    python -m tests.fuzz --inputs 2000 --only grib --keep /tmp/failures

A reader may give plausible values, or refuse with a `DacycleError`. Anything else is a failure: another exception, a
dead process, more than 30 s, a value outside its physical range. `mutations` makes inputs, `readers` reads them and
judges, `run` does both in processes of their own and prints the table of `docs/reliability.md`.
"""
