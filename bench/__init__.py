"""Benchmarks: ours compared with what people use today, in the same run, on real daemons. `make help` lists them."""
