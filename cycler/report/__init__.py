"""Reports: the pages of an experiment and of a comparison, their figures, maps and tables.

`dacycle report`, `dacycle compare` and the flows call it. Put the next page beside `page`, with its template in
`templates/`, its numbers in `tables` and its pictures in `figures`.
"""
