"""The LoRA adapter: its specification, its state as tensors, and the update that leaves a bank."""
