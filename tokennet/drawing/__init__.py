"""Pictures and pages of what the library computes."""
