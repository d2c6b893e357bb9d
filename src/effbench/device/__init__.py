"""Code that runs on a device: the agent that verifies and measures, pairs of artifacts, kits, and the supervisor."""

AGENT = "effbench.device.agent"
PAIR_AGENT = "effbench.device.agent_pair"
"""The modules that run as child processes, here and on devices."""
