"""What TensorRT and TensorRT for RTX share: the same API, two libraries whose engines never stand in for each other."""
