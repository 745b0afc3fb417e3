"""Money that changes hands at random: the Boltzmann wealth model, the smallest system in the house."""
