"""Benchmarks: ours beside what people use today, in the same run, on real daemons. `make help` lists them."""
