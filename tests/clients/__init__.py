"""Real clients against the lab."""

import pytest

# What is asserted there is explained there too.
pytest.register_assert_rewrite(
    "tests.clients.live", "tests.clients.sweep", "tests.clients.official"
)
