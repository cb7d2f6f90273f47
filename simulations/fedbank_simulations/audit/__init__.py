"""``fedbank audit``: attacks on the code and on trained adapters, with their page."""
