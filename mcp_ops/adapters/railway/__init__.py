"""Railway: one environment of one project a target."""
