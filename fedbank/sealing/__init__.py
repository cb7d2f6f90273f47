"""Who said it: signing keys, signed envelopes, and the roster that tells whose key is whose.

Knows bytes and names; refuses to know what is inside a payload, where it came from and what is done with it.
"""
