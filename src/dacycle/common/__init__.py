"""Common ground of all components: errors, whole files, settings, YAML files, logging.

Everything may import it; it imports no component. Put something here only if at least three components need it and it
knows nothing of weather.
"""
