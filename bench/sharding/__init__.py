"""The parts of `make bench-shards`: images become shards, shards are read, compared with what people use today."""
