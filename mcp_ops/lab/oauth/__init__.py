"""The lab's OAuth 2.1 authorization server."""
