"""MSN: a detector and a propagator joined by mask selection, run forward and backward."""
