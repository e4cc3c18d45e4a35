"""Measuring: models of known geometry with random weights, the limits of a machine, speed."""
