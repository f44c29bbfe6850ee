"""Training of networks from recipes: read the recipe, load and check the data, train with Lightning, resume."""
