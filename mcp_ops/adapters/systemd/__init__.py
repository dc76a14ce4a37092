"""systemd on the server's own machine, over `systemctl` and `journalctl`."""
