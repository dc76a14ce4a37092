"""A stand-in for Railway's public API."""
