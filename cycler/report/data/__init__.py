"""Data that pictures need, and the scripts that make them."""
