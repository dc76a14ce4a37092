"""The lab's Kubernetes API server: its wire contract, and controllers that roll pods over time."""
