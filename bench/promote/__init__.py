"""From finished trials to files that ship: select, retrain, export, verify."""
