"""What a reader copies from. Each runs in the tests."""
