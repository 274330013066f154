"""The ways to fill a gap, behind one Protocol."""
