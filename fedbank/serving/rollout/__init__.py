"""Which release answers: its stages, the desk that keeps them, and what a candidate is compared by."""
