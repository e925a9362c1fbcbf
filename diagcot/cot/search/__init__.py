"""Collection of chains of thought: prompts, replies, and the search as a pure state machine."""
