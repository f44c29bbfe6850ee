"""Small packaged ONNX graphs, and the scripts that make them."""
