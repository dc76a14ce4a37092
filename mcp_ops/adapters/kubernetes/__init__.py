"""Kubernetes: one context and namespace a target, raw JSON, the class in `adapter`."""
