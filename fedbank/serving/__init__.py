"""A bank's own service for its customers' inquiries: engines, stages, rollout, access, records.

It knows no network framework and no command line; ``fedbank_client`` puts it behind HTTPS.
"""
