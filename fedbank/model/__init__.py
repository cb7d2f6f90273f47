"""The base model: which one, and loading it safely from a folder or by identifier."""
