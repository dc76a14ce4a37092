"""Telemetry that leaves the process; loaded only where the settings switch it on."""
