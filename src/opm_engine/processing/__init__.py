"""Deskew: kernels (arrays in, arrays out) and the handler that runs them as planes come."""
