"""A stand-in for systemd: two programs that speak as `systemctl` and `journalctl` do."""
