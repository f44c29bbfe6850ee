"""Fuzzing of every reader of foreign files: mutated inputs, and what a reader may do with them.

    python -m tests.fuzz --keep failures   # 100 000 inputs, half an hour of one core; goes on where it was stopped
    python -m tests.fuzz --inputs 2000 --only grib

A reader may give plausible values, or refuse with a `DacycleError`. Anything else is a failure: another exception, a
dead process, more than 30 s, a value outside its physical range. `formats` has right inputs of each format, `mutations`
changes them, `readers` reads them and judges, `run` does all that in processes of their own and prints the table of
`docs/reliability.md`.
"""
