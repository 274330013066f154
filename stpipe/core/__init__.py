"""Pure NumPy: windows, blocks, samples, plans, scores and the Protocols that the rooms above satisfy."""
