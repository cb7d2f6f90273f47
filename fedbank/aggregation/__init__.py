"""The coordinator's arithmetic: admission of updates, aggregation rules, server steps. No model, no data."""
