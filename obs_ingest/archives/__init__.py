"""Public archives of observations: their station lists, folders and files, and how whole years of them are fetched.

`dacycle fetch` calls `fetching`. Put the next archive into `catalogue.py`: a class that says where its list and its
files are, and a check of what a file begins with.
"""
