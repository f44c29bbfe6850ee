"""Observations: sources that read or draw them, one table, quality control, observation operators, superobs."""
