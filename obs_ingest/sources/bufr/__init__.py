"""WMO BUFR: messages, their decoding in a process of its own, and the sources of its kinds of report.

`obs_ingest.sources.base` loads the sources by name. A new kind of report needs two modules here: a reader that runs
in the decoding process (as `synop_decoder`) and a source that makes rows of what it reads (as `synop`).
"""
