"""Data for the figures of reports, and the scripts that make them."""
