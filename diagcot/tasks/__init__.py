"""What a model is asked to do: prompts, samples, and the questions made from labels, boxes and reports."""
