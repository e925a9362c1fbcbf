"""Conversations in the file formats of other suites: read into shards and samples, and written from them."""
