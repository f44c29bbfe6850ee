"""The packaged station lists `stations.csv` and `sondes.csv`: identifier, position and elevation of each station.

The simulation and the METAR reader load them with `stations.load_stations`; `make` writes them. Put another list here
as a CSV file with the same columns.
"""
