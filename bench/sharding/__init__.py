"""The parts of `make bench-shards`: films become shards, shards are read, beside what people use today."""
