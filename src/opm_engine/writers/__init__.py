"""Frames and volumes to disk."""
