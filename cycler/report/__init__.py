"""Reports: the page of an experiment, and the figures, maps, tables and templates of all pages.

`dacycle report`, `comparison` and the flows call it. The next page is a module like `page`, with a template like
`templates/report.html`. Put the next section into the template of its page, with numbers from `tables` and
figures from `figures`.
"""
