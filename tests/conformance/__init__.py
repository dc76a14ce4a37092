"""The official conformance suite against the shipping application, with what its scenarios call."""
