"""Reports: the pages of an experiment and of a comparison, with their figures, maps and tables.

`dacycle report`, `dacycle compare` and the flows call it. The next page is a module like `compare`, with a template
like `templates/compare.html`. Put the next section into the template of its page, with numbers from `tables` and
figures from `figures`.
"""
