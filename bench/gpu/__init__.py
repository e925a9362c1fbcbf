"""`make bench-gpu`: what runs on a machine's GPUs, part by part."""
