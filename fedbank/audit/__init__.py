"""Audits: statistical lower bounds on epsilon from attacks on the code that trains. They can refute, never prove."""
