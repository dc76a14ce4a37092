"""The commands of `mcp-ops`, one file each; `root.py` puts them together."""
