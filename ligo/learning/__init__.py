"""Learning an operator: the grown weights as a function of its maps, and the few hundred steps."""
