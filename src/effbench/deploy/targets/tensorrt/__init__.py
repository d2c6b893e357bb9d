"""What TensorRT and TensorRT for RTX share: the same API. The engines of the two libraries are not interchangeable."""
