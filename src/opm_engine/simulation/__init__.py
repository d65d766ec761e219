"""The digital twin: a board behind the real driver library, a camera, a specimen."""
