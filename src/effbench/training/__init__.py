"""Train a backbone: from labels, from any number of frozen teachers, or both. Stands on ``models`` alone.

`recipe` says how, `loop.train` does it. Every random number is drawn from the seed and a position (image and view,
epoch, step), so that nothing but tensors and a step number has to be kept to go on after a kill with the same weights.
"""
