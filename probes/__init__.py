"""What the embeddings know: probes, splits, measures, statistics."""
