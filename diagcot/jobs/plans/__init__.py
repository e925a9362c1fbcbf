"""What a run is to do: plans, their units, and how a run grows."""
