"""Acquisition engine for oblique plane microscopes."""
