"""Trained assimilation: ONNX files run by ONNX Runtime, without torch.

Holds the runner of networks that are called once, and the loop around iterative ones. The guarded step calls it. A new
method needs no code here: it is trained, exported and found by its file. Put the next contract between file and runner
here.
"""
