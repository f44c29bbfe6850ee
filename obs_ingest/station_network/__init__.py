"""Station lists of the simulated networks: `stations.csv` and `sondes.csv` (identifier, position, elevation)."""
