"""Published weights, imported into detectors; checkpoints and model directories."""
