"""Whatever turns a conversation into an answer: one interface, and what stands behind it."""
