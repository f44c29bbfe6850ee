"""Forecast models: ONNX networks with FengWu's contract, their registration, and what they run on.

`model.load_model` is the way in; the cycle and the drift forecasts call it. A model with the same contract needs only
a file (`registry`); put the adapter of another contract here.
"""
