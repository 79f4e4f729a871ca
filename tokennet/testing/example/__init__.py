"""How inputs and outputs of a model are read: what are tokens, sets, pairs and masks."""
