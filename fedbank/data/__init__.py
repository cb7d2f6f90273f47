"""Customer inquiries: where they come from, how they are grouped by customer and split."""
