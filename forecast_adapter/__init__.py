"""States, grids, channels, statistics, scores, worlds, and the forecast models that step them."""
