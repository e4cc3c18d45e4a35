"""Seals natively trained 1-bit models into static executables for machines with no network."""
