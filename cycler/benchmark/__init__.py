"""The benchmark: all methods on the same single analyses and in the same cycles, and its page.

`dacycle benchmark` calls it. Put the next setting of single analyses in `assimilators.judging.benchmark` and the next
table or picture in `page`.
"""
