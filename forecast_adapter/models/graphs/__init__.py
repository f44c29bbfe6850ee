"""Small ONNX graphs that travel with the package, and the scripts that make them."""
