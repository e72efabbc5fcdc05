"""How far a run is, what it met, and who is told."""
