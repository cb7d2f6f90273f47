"""What happened, so that it cannot be rewritten unnoticed: an append-only log with a signed Merkle tree.

Knows who did what to which public name or digest; refuses to know prompts, customers, gradients and keys.
"""
