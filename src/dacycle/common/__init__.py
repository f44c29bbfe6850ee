"""Code that all components use: errors, files written whole, settings, YAML files, logging.

Everything may import it; it imports no component. Put something here only if at least three components need it and it
contains nothing about weather.
"""
