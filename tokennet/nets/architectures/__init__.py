"""Named nets, each a few lines of layers."""
