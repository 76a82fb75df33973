"""Faults on purpose: a whole service of real processes, load over HTTP, faults drawn from a seed, and the ledger."""
