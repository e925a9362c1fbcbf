"""The client of a model server: requests, retries, flow control."""
