"""Code that runs on a device: the agent that verifies and measures, pairs of artifacts, kits, and the supervisor."""
