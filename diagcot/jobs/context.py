"""What a kind of work sees of the cluster: its unit, its paths, its rank, records, progress and the request to stop."""
