"""The parts of :class:`scgraphvci.Evaluation`: who predicts what, from where, and how close it comes."""
