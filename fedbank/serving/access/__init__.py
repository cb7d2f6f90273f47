"""Who may do what: rights, tokens, keys."""
