"""Commands that the operator listed, kept running where there is no systemd."""
