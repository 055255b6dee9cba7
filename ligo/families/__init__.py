"""What a model is: its spaces and its tensors, one file per architecture, in on-disk names."""
