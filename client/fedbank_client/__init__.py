"""The bank's Flower app."""
