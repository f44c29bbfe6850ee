"""Forecast models: ONNX networks with FengWu's contract, their registration, and the devices that they run on.

Start at `model.load_model`; cycles and drift forecasts call it. A model with the same contract needs only a file
(`registry` registers it). The adapter of another contract goes here: a class with the protocol `model.ForecastModel`,
which `load_model` chooses.
"""
