"""Jobs behind HTTP endpoints that the configuration describes."""
