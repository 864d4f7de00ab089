"""Pure losses: tensors in, (loss, statistics) out. No model is involved."""
