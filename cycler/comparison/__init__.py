"""Compare runs: paired differences with intervals, a scorecard, costs, and files for WeatherBench-X.

`dacycle compare` and the benchmark call it. `pairing` is the one place where errors of two runs or methods are paired.
The next kind of error that runs are compared by is a function in `errors`, the next form of the result a module like
`markdown`.
"""
