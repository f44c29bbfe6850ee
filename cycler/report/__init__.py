"""Reports: the pages of an experiment and of a comparison, with their figures, maps and tables.

`dacycle report`, `dacycle compare` and the flows call it. The next page is a module like `compare`, with a template
like `templates/compare.html`. The next section of a page is printed by the page's template, with numbers from `tables`
and pictures from `figures`.
"""
