"""Simulated observations: drawn from a world's reference with known errors, as tables or as files.

Experiments name its sources like real ones; `dacycle simulate` and `assimilators.sampling` call it. Put the next
simulated observing system here, copied from `fields.Olr`, and list its class in `sources.base.SOURCES` and `DRAWN`.
"""
