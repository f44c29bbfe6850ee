"""Training of networks from recipes: read the recipe, load and check the data, train with Lightning, resume.

Needs torch. `dacycle train` calls it. Put the training of a new kind of network here: its data and loss
as a module beside `assimilation`, `forecast`, `prior` and `operator`, its keys in `recipe`.
"""
