"""What became of everything that a stage of shards read, and which images a run has trained on."""
