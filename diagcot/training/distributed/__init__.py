"""Ranks of a job: rendezvous, process group, DeepSpeed engine, Ray cluster."""
