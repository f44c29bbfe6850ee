"""Export of training runs to ONNX files with metadata and a card.

Needs torch. `dacycle export` calls it. Put the export of a new kind of network here: one module beside `forecast`,
`assimilator` and `operator`.
"""
