"""Views for napari."""
