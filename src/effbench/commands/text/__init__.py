"""The terminal tables and sentences that the commands print."""
