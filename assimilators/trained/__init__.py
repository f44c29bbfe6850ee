"""Trained assimilation: ONNX files run by ONNX Runtime, without torch.

Holds the runner for one-call networks and the loop for iterative ones. The guarded step calls it. A new method needs
nothing here: it is trained, exported and found by its file. Only a new contract between file and runner belongs here.
"""
