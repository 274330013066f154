"""The partial-convolution network: layers, weights in and out, and the packaged weights."""
