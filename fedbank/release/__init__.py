"""Releases of an adapter that member banks sign together: The Update Framework (TUF 1.0), no tensor library.

Banks hold the keys of root and targets, m of n; the coordinator holds only the key that says what is newest.
"""
