"""Training data written by rule: question answering, and example conversations for tiny models."""
