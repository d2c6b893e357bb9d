"""Train a backbone from labels, from any number of frozen teachers, or from both. Imports ``models`` only.

`recipe` holds the settings, `loop.Training` runs them. Every random number is drawn from the seed and a position (image
and view, epoch, step), so that a checkpoint of tensors and a step number resumes with the same weights.
"""
