"""Export of training runs to ONNX files with metadata and a card.

Needs torch. `dacycle export` calls it. Put the export of a new kind of network here, as a module like `operator`; a new
assimilator needs none, because `assimilator` exports every method.
"""
