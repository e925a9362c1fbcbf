"""Models that read reports, in their published formats, and how they compare two reports."""
