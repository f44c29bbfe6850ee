"""Variational assimilation: the minimum of a cost function of the background and the observations.

`covariance` is the background's error covariance as a control-variable transform, `harmonics` the transforms under it,
`estimation` and `recipe` make it from samples of cycles' errors. `minimisation` holds outer and inner loops,
`departures` what was observed, and `three_dimensional` and `four_dimensional` the methods `3dvar` and `4dvar`, which
`methods` loads. Put another operator of observations into `departures`, and another method beside these two.
"""
