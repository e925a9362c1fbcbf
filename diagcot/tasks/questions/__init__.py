"""Questions for CX-Mind's training, made from the labels, boxes and reports of a shard."""
