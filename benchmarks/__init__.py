"""What lowtide's jobs cost against the same work done bare, measured side by side in one run."""
