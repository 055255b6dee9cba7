"""How weights grow: space maps for width, layer maps for depth, one file per operator."""
