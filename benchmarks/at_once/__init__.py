"""The parts of ``system.py``."""
