"""Releases: keys, signed containers, manifests, trust roots, bundles. Bytes in, bytes out."""
