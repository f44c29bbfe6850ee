"""The operator's page, `dacycle web`: what an archive holds, as pages and as JSON, live and read-only.

Here are what is read and kept of the runs (`runs`), what each page shows (`overview`, `run_page`, `cycle_page`,
`stations`), the templates, and the application that serves them (`app`). The command line calls `app`; nothing else
does. What is shown is read through `archive`, `verification` and `operations`, and drawn by `report`. A page more is a
function that returns its content, a template, and a route in `app`.
"""
