"""Data for the pictures of reports, and the scripts that make them."""
